"""The child process of :mod:`sdqueue.consumer.isolation`: one turn, asked on standard input, answered in a file.

The answer goes through a file, since an agent may print what it likes; a file that is not there says that the
process died.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdqueue.agents import TurnContext, as_turn_result, load_agent_factory, set_current_turn
from sdqueue.consumer.failure import describe, reason_of
from sdqueue.consumer.retry import is_transient, retry_after
from sdqueue.sessions import InMemorySessionStore, SessionWorker
from sdqueue.sessions.codec import decode, encode
from sdqueue.sessions.record import Stored


async def answer(request: dict[str, Any]) -> str:
    """Run the turn of a request.

    Returns:
        JSON with ``record`` and ``result``; or with ``timeout``; or with ``error``, ``reason``, ``transient`` and
        ``retry_after_s``.
    """
    clock = asyncio.timeout(request["timeout"])
    try:
        async with clock:
            return await _run(request)
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:  # noqa: BLE001 -- an answer too
        if clock.expired():
            return json.dumps({"timeout": True})
        return json.dumps(
            {
                "error": describe(error),
                "reason": reason_of(error),
                "transient": is_transient(error),
                "retry_after_s": retry_after(error, now=time.time()),
            }
        )


async def _run(request: dict[str, Any]) -> str:
    session_id = request["session_id"]
    store = InMemorySessionStore()
    record = decode(request["record"])
    record.stored = Stored()
    await store.save(session_id, record)
    worker = SessionWorker(agent_factory=load_agent_factory(request["agent"]), store=store)
    set_current_turn(TurnContext(request["turn_id"], session_id, request["attempt"]))
    async with worker.acquire(session_id) as handle:
        result = as_turn_result(await handle.turn(request["text"]))
    saved = await store.load(session_id)
    assert saved is not None
    return json.dumps({"record": encode(saved), "result": asdict(result)})


async def _answer_into(path: Path, request: dict[str, Any]) -> None:
    # Written before the loop is closed: what an agent has left running may keep that from ever ending.
    text = await answer(request)
    partial = path.with_suffix(".part")
    partial.write_text(text)
    os.replace(partial, path)


def main() -> None:
    """Answer the one request."""
    # A service manager may tell all processes of a service to end; this one ends with its turn, or with its parent's
    # patience, so that its end says something about the turn. Not by SIG_IGN: the agent's children would inherit it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    request = json.loads(sys.stdin.buffer.read())
    asyncio.run(_answer_into(Path(sys.argv[1]), request))


if __name__ == "__main__":
    main()
