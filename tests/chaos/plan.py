"""The plan of a load: which messages are sent, when, and what the agent is to do with them; all from one seed."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos.evidence import Kind

CHANNEL: Final = "chaos"

MALFORMED: Final = (
    b"\xff not JSON",
    b'{"text": "whose?"}',
    b'["a", "list"]',
    b'{"session_id": "s", "text": "half \\ud800 a character"}',
)


@dataclass(frozen=True)
class Message:
    """One message to be sent.

    Parameters:
        mark, session, kind, think_s, deadly: as in :class:`~tests.chaos.evidence.Sent`.
        due_s: when, in seconds from the start of the load; later where the one before is not confirmed yet.
        key: its routing key.
        body: the message.
        message_id: its AMQP property; ``None`` for a turn without identity.
        again_s: send it once more, so many seconds after its confirm.
    """

    mark: str
    session: str
    kind: Kind
    think_s: float
    deadly: bool
    due_s: float
    key: str
    body: bytes
    message_id: str | None
    again_s: float | None = None


@dataclass(frozen=True)
class Load:
    """How much of what.

    Parameters:
        sessions: how many.
        rate: turns per second, all sessions together.
        seconds: for how long.
        think_s: shortest and longest time that the agent takes.
        duplicates, flaky, anonymous, malformed: the share of turns that are sent twice, that fail passingly the first
            time, that have no id, and of messages that are no turns.
        unhashed: so many of the sessions are of a producer that cannot hash, and sends by session id.
        flood: turns of one more session, sent as fast as they are confirmed.
        deadly: so many turns kill every process that runs them.
        dozing: so many turns stop the first process that runs them.
    """

    sessions: int = 40
    rate: float = 40.0
    seconds: float = 12.0
    think_s: tuple[float, float] = (0.02, 0.2)
    duplicates: float = 0.04
    flaky: float = 0.04
    anonymous: float = 0.03
    malformed: float = 0.02
    unhashed: int = 2
    flood: int = 0
    deadly: int = 0
    dozing: int = 0


FLOOD: Final = "flood"
"""The session that floods."""


class Plan:
    """The messages of a load.

    Parameters:
        load: how much of what.
        partitions: of the topology.
        seed: everything random comes from it.
    """

    def __init__(self, load: Load, *, partitions: int, seed: int) -> None:
        self.load = load
        self._partitions = partitions
        self._seed = seed

    def sessions(self) -> list[Iterator[Message]]:
        """The messages of each session, in order."""
        # Neither at the start, when not all consumers are up, nor in one moment.
        chance = random.Random(f"{self._seed} special")
        special: dict[int, dict[int, str]] = {}
        a_session = max(2, round(self.load.rate * self.load.seconds / self.load.sessions))
        for act, count in (("die", self.load.deadly), ("doze", self.load.dozing)):
            for _ in range(count):
                place = chance.randrange(a_session // 4, max(a_session // 2, a_session // 4 + 1))
                special.setdefault(chance.randrange(self.load.sessions), {})[place] = act
        streams = [self._session(number, special.get(number, {})) for number in range(self.load.sessions)]
        if self.load.flood:
            streams.append(self._flood())
        return streams

    def _session(self, number: int, special: dict[int, str]) -> Iterator[Message]:
        load, chance = self.load, random.Random(f"{self._seed} {number}")
        unhashed = number < load.unhashed
        name = f"{'unhashed' if unhashed else 'session'}-{number}"
        pause_s = load.sessions / load.rate
        due_s, place = chance.uniform(0, pause_s), 0
        while due_s < load.seconds:
            act = special.get(place) or ("flaky" if chance.random() < load.flaky else "say")
            kind: Kind = "turn"
            if act == "say":
                draw = chance.random()
                if draw < load.anonymous:
                    kind = "anonymous"
                elif draw < load.anonymous + load.malformed:
                    kind = "malformed"
            again_s = chance.uniform(0, 3) if kind == "turn" and chance.random() < load.duplicates else None
            key = name if unhashed else self._key(name)
            yield _message(f"{name}.{place}", name, kind, act, chance, load, due_s=due_s, key=key, again_s=again_s)
            place += 1
            due_s += chance.uniform(0.5, 1.5) * pause_s

    def _flood(self) -> Iterator[Message]:
        chance = random.Random(f"{self._seed} flood")
        quick = Load(think_s=(0.0, 0.001))
        for place in range(self.load.flood):
            mark, due_s = f"{FLOOD}.{place}", self.load.seconds / 4
            yield _message(mark, FLOOD, "turn", "say", chance, quick, due_s=due_s, key=self._key(FLOOD))

    def _key(self, session: str) -> str:
        """By the wire contract: CRC-32 of the session id, as four decimal digits."""
        return f"{zlib.crc32(session.encode()) % self._partitions:04d}"


def _message(
    mark: str,
    session: str,
    kind: Kind,
    act: str,
    chance: random.Random,
    load: Load,
    *,
    due_s: float,
    key: str,
    again_s: float | None = None,
) -> Message:
    think_s = round(chance.uniform(*load.think_s), 3)
    text = f"{mark} {act} {round(think_s * 1000)}"
    fields: dict[str, Any] = {"session_id": session, "text": text, "channel": CHANNEL, "metadata": {"mark": mark}}
    message_id: str | None = mark
    if kind == "turn" and chance.random() < 0.5:
        fields["id"] = mark  # either of the two places names a turn
    elif kind == "anonymous":
        message_id = None
    body = chance.choice(MALFORMED) if kind == "malformed" else json.dumps(fields).encode()
    return Message(
        mark,
        "" if kind == "malformed" else session,
        kind,
        2 * think_s if act == "flaky" else think_s,
        act == "die",
        due_s,
        key,
        body,
        message_id,
        again_s,
    )
