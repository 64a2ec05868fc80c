"""A conversation at the prompt: what ``sdqueue chat`` and ``sdqueue dev`` have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from rich.console import Console

from sdqueue.cli.lines import Lines
from sdqueue.client import Client, TurnOptions
from sdqueue.errors import InvalidTurn, ReplyError, ReplyTimeout, SdqueueError
from sdqueue.messages import InboundTurn, OutboundReply, TurnKind
from sdqueue.sessions import SessionRecord
from sdqueue.sessions.codec import encode

HELP: Final = """\
/session NAME   go on in another session
/state          show what is stored of this session
/reset          let the session start afresh
/quit           leave (also Ctrl-D)
//text          say something that begins with a slash
anything else   is said to the agent"""


class Conversation:
    """Reads lines, says them in a session and prints the replies, until the input ends.

    Parameters:
        client: what asks.
        lines: where the lines come from.
        load: loads a session's record, for ``/state``.
        session: where to begin.
        channel: the channel of the turns.
        timeout: seconds of silence after which a reply is given up.
    """

    def __init__(
        self,
        client: Client,
        lines: Lines,
        load: Callable[[str], Awaitable[SessionRecord | None]],
        *,
        session: str,
        channel: str,
        timeout: float,
    ) -> None:
        self._client = client
        self._lines = lines
        self._load = load
        self._session = session
        self._channel = channel
        self._timeout = timeout
        self.asked: set[str] = set()
        """The ids of the turns that were sent here."""
        self.failed = False
        """Whether anything that was said got no good answer."""

    async def run(self) -> None:
        """Talk until the input ends or ``/quit``.

        Raises:
            SdqueueError: where nobody sits at a terminal to try again, what kept the pool from answering.
        """
        _check_session(self._session)
        while (line := await self._lines.next(f"{self._session}> ")) is not None:
            if line.strip() == "/quit":
                return
            if not line.strip():
                continue
            try:
                await self._handle(line)
            except (InvalidTurn, ReplyError) as error:
                self._complain(error)
            except SdqueueError as error:
                if not self._lines.terminal:
                    raise
                self._complain(error)

    async def _handle(self, line: str) -> None:
        command, _, argument = line.strip().partition(" ")
        match command:
            case "/help":
                print(HELP)
            case "/session":
                if argument.strip():
                    _check_session(argument.strip())
                    self._session = argument.strip()
                else:
                    print(self._session)
            case "/state":
                await self._show_state()
            case "/reset":
                await self._say("", kind="reset")
            case _ if command.startswith("/") and not command.startswith("//"):
                self._complain(f"no command {command}; /help lists them, //{command[1:]} says it")
            case _:
                await self._say(line.removeprefix("/") if command.startswith("//") else line)

    async def _say(self, text: str, kind: TurnKind = "message") -> None:
        turn_id = uuid4().hex
        self.asked.add(turn_id)
        turn: TurnOptions = {"id": turn_id, "channel": self._channel, "kind": kind}
        said, attempt = "", None
        try:
            async for reply in self._client.stream(self._session, text, timeout=self._timeout, **turn):
                if reply.kind == "final":
                    self._end_reply(reply, said)
                elif self._lines.terminal:
                    if said and reply.metadata.get("attempt") != attempt:
                        said = ""
                        print(" … (again)")
                    attempt = reply.metadata.get("attempt")
                    said += reply.text
                    print(reply.text, end="", flush=True)
        except ReplyTimeout as error:
            self.asked.discard(error.turn_id)  # shown when it comes, where late replies are shown
            raise
        finally:
            if said and not said.endswith("\n"):
                print(flush=True)

    def _end_reply(self, reply: OutboundReply, said: str) -> None:
        if said != reply.text:
            print(f"\n{reply.text}" if said else reply.text, flush=True)

    async def _show_state(self) -> None:
        record = await self._load(self._session)
        if record is None:
            print(f"nothing is stored of session {self._session!r}")
        elif self._lines.terminal:
            Console().print_json(json.dumps(readable(self._session, record)))
        else:
            print(json.dumps(readable(self._session, record), indent=2, ensure_ascii=False), flush=True)

    def _complain(self, error: object) -> None:
        self.failed = True
        print(f"error: {error}", file=sys.stderr, flush=True)


def readable(session_id: str, record: SessionRecord) -> dict[str, Any]:
    """A record as JSON for people: times as dates, replies as objects."""
    fields: dict[str, Any] = {"session_id": session_id} | json.loads(encode(record))
    for name in ("created_at", "last_turn_at"):
        fields[name] = _date(fields[name])
    for turn in fields["turns"]:
        turn["at"] = _date(turn["at"])
        if "replies" in turn:
            turn["replies"] = [json.loads(reply) for reply in turn["replies"]]
    return fields


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _check_session(session: str) -> None:
    InboundTurn.make({"session_id": session, "text": ""})
