"""The child process of :mod:`sdqueue.consumer.isolation`: one turn, asked on standard input, answered in a file.

The answer goes through a file, since an agent may print what it likes; a file that is not there says that the
process died.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdqueue.agents import TurnContext, as_turn_result, load_agent_factory, set_current_turn
from sdqueue.consumer.failure import describe
from sdqueue.sessions import InMemorySessionStore, SessionWorker
from sdqueue.sessions.codec import decode, encode
from sdqueue.sessions.record import Stored


async def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the turn of a request; the answer has ``record`` and ``result``, or ``error``."""
    session_id = request["session_id"]
    store = InMemorySessionStore()
    record = decode(request["record"])
    record.stored = Stored()
    await store.save(session_id, record)
    worker = SessionWorker(agent_factory=load_agent_factory(request["agent"]), store=store)
    set_current_turn(TurnContext(request["turn_id"], session_id, request["attempt"]))
    try:
        async with asyncio.timeout(request["timeout"]), worker.acquire(session_id) as handle:
            result = as_turn_result(await handle.turn(request["text"]))
    except Exception as error:  # noqa: BLE001 -- whatever an agent raises is its answer
        return {"error": describe(error)}
    saved = await store.load(session_id)
    assert saved is not None
    return {"record": encode(saved), "result": asdict(result)}


def main() -> None:
    """Answer the one request."""
    request = json.loads(sys.stdin.buffer.read())
    text = json.dumps(asyncio.run(answer(request)))
    path = Path(sys.argv[1])
    partial = path.with_suffix(".part")
    partial.write_text(text)
    os.replace(partial, path)


if __name__ == "__main__":
    main()
