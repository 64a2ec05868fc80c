"""The child process of :mod:`sdqueue.consumer.isolation`: takes turns from the consumer, one at a time.

Its arguments are the file descriptor of the socket between them and the name of the agent. Nothing that an agent
prints, reads or raises goes over that socket; its end says that the process died, or that the consumer is gone.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sdqueue.agents import AgentFactory, AgentRoutes, TurnContext, as_turn_result, opened_agents, set_current_turn
from sdqueue.consumer.answer import in_pieces
from sdqueue.consumer.failure import describe, reason_of, trace_of
from sdqueue.consumer.frames import put_frame, read_frame, write_frame
from sdqueue.consumer.retry import is_transient, retry_after
from sdqueue.errors import ConfigurationError
from sdqueue.sessions import InMemorySessionStore, SessionInit, SessionWorker
from sdqueue.sessions.codec import decode, encode
from sdqueue.sessions.record import Stored

PATIENCE_S: Final = 60
"""Seconds after which a child ends that its consumer should have ended long before: it is gone, and the agent never
lets go of the loop, which would have seen that."""

OOM_SCORE: Final = 500
"""From -1000 to 1000: short of memory, Linux shall take a suspect and not the consumer."""


async def answer(agent_factory: AgentFactory | AgentRoutes, request: dict[str, Any], say: Callable[[str], None]) -> str:
    """Run the turn of a request.

    Parameters:
        agent_factory: makes the agent.
        request: what :mod:`sdqueue.consumer.isolation` asks for.
        say: takes the pieces of the answer, where the request wants it streamed.

    Returns:
        JSON with ``record`` and ``result``; or with ``timeout``; or with ``error``, ``trace``, ``reason``,
        ``transient`` and ``retry_after_s``.
    """
    clock = asyncio.timeout(request["timeout"])
    try:
        async with clock:
            return await _run(agent_factory, request, say)
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:  # noqa: BLE001 -- an answer too
        if clock.expired():
            return json.dumps({"timeout": True})
        return json.dumps(
            {
                "error": describe(error),
                "trace": trace_of(error),
                "reason": reason_of(error),
                "transient": is_transient(error),
                "retry_after_s": retry_after(error, now=time.time()),
            }
        )


async def _run(agent_factory: AgentFactory | AgentRoutes, request: dict[str, Any], say: Callable[[str], None]) -> str:
    session_id = request["session_id"]
    store = InMemorySessionStore()
    if request["record"] is not None:
        record = decode(request["record"])
        record.stored = Stored()
        await store.save(session_id, record)
    worker = SessionWorker(agent_factory=agent_factory, store=store)
    set_current_turn(TurnContext(request["turn_id"], session_id, request["attempt"], request.get("metadata", {})))
    async with worker.acquire(session_id, init=SessionInit(session_id, **request.get("init", {}))) as handle:
        if request.get("stream"):
            result = await in_pieces(await handle.turn(request["text"], stream=True), say)
        else:
            result = as_turn_result(await handle.turn(request["text"]))
    saved = await store.load(session_id)
    assert saved is not None
    return json.dumps({"record": encode(saved), "result": asdict(result)})


async def _serve(channel: socket.socket, agent: str) -> None:
    reader, writer = await asyncio.open_connection(sock=channel)
    async with AsyncExitStack() as stack:
        try:
            agent_factory = await stack.enter_async_context(opened_agents(agent))
        except ConfigurationError as error:
            await write_frame(writer, json.dumps({"error": describe(error)}))
            return
        await write_frame(writer, json.dumps({"ready": True}))
        await _answer_all(agent_factory, reader, writer)


async def _answer_all(
    agent_factory: AgentFactory | AgentRoutes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    def say(text: str) -> None:
        put_frame(writer, json.dumps({"said": text}))

    request = await read_frame(reader)
    while request is not None:
        _end_after(request["timeout"] + PATIENCE_S)
        turn = asyncio.create_task(answer(agent_factory, request, say), name=f"turn {request['turn_id']}")
        following = asyncio.create_task(read_frame(reader))
        await asyncio.wait({turn, following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            os._exit(0)  # nobody waits for the answer any more, and the agent may be slow to stop
        _end_after(PATIENCE_S)
        await write_frame(writer, turn.result())
        request = await following


def _end_after(seconds: float) -> None:
    """End unless this is called again in time. The kernel sees to it, whatever the agent does to the loop."""
    signal.alarm(math.ceil(min(seconds, 2**31 - 1)))


def main() -> None:
    """Serve the consumer at the other end, until it has no more turns."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)  # a process that the agent starts must not hold it open
    _end_after(PATIENCE_S)
    # A service manager may tell all processes of a service to end; this one ends with its consumer, or by its
    # patience, so that its end says something about the turn. Not by SIG_IGN: the agent's children would inherit it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if sys.stderr is not None:
        faulthandler.enable()  # where a turn crashed is what its operator asks first
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    with suppress(OSError):  # the consumer has gone
        asyncio.run(_serve(channel, sys.argv[2]))


if __name__ == "__main__":
    main()
