"""Workload: the turns of a world, and their sending."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, replace
from typing import Literal

from sdqueue.brokers import MemoryBroker, Message
from sdqueue.messages import partition_of, routing_key
from tests.simulation.profile import Profile
from tests.simulation.trace import Trace

Fate = Literal["fine", "dead", "poison", "malformed"]


@dataclass(frozen=True)
class Sent:
    """A turn as the broker accepted it.

    Parameters:
        id: its id; of a malformed one, its body.
        session_id: the session.
        kind: as on the wire.
        fate: how its agent ends.
        body: the bytes.
    """

    id: str
    session_id: str
    kind: str
    fate: Fate
    body: bytes


class Workload:
    """Sends the turns of all sessions, each session's in order.

    Parameters:
        profile: how many, and of what kind.
        chance: decides the rest.
        broker: takes them; the producer's own connection never fails.
        trace: is told.
    """

    def __init__(self, profile: Profile, chance: random.Random, broker: MemoryBroker, trace: Trace) -> None:
        self.accepted: list[Sent] = []
        """In the order in which the broker had them, repeats included."""
        self._profile = profile
        self._chance = chance
        self._broker = broker
        self._trace = trace

    async def send(self) -> None:
        """Send all."""
        profile, chance = self._profile, self._chance
        sessions = [f"s{n}" for n in range(profile.sessions)]
        due: list[tuple[float, Sent]] = []
        unrouted = {session for session in sessions if chance.random() < profile.unrouted}
        for session in sessions:
            turns = [self._turn(session, number) for number in range(profile.turns)]
            # Bursts and pauses: turns that come together are those that can overtake each other.
            at = chance.uniform(0, profile.lasts_s / 2)
            times = []
            for _ in turns:
                times.append(at)
                at += 0.0 if chance.random() < 0.5 else chance.uniform(0, profile.lasts_s / profile.turns)
            due += zip(times, turns, strict=True)
            for at, turn in zip(times, turns, strict=True):
                if turn.fate != "malformed" and chance.random() < profile.repeated:
                    due.append((at + chance.choice([0.0, 0.1, 10.0]), turn))
        due.sort(key=lambda one: one[0])  # stable: what is due together keeps its order
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for at, turn in due:
            await asyncio.sleep(begun + at - loop.time())
            await self._publish(turn, by_session=turn.session_id in unrouted)

    def _turn(self, session: str, number: int) -> Sent:
        profile, chance = self._profile, self._chance
        turn_id = f"{session}.{number}"
        if chance.random() < profile.malformed:
            body = json.dumps({"session_id": session, "id": turn_id}).encode()  # without a text
            return Sent(turn_id, session, "message", "malformed", body)
        drawn = chance.random()
        fate: Fate = "fine"
        if drawn < profile.dead:
            fate = "dead"
        elif drawn < profile.dead + profile.poisonous:
            fate = "poison"
        seconds = round(chance.expovariate(1 / 3), 3) if chance.random() < profile.long else 0.0
        failures = chance.randint(1, 2) if chance.random() < profile.flaky else 0
        kind = "message"
        if chance.random() < profile.control:
            kind, fate = chance.choice(["assist", "reset", "cancel", "cancel"]), "fine"
        fields = {
            "session_id": session,
            "id": turn_id,
            "text": f"{turn_id} {fate} {seconds} {failures}",
            "kind": kind,
            "stream": chance.random() < profile.streamed,
        }
        return Sent(turn_id, session, kind, fate, json.dumps(fields).encode())

    async def _publish(self, turn: Sent, *, by_session: bool) -> None:
        topology = self._broker.topology
        key = turn.session_id if by_session else routing_key(partition_of(turn.session_id, topology.partitions))
        self._trace.note("producer", f"sends {turn.id}, {turn.kind}, {turn.fate}")
        self.accepted.append(replace(turn))
        await self._broker.publish(topology.turns, key, Message(turn.body))
