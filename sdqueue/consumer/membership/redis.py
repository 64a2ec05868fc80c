"""RedisMembership and RedisPool: consumers on any number of machines sign a list in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final, Self

from redis.asyncio import Redis, RedisCluster

from sdqueue.brokers import Topology
from sdqueue.consumer.membership.beating import LIFE_S, Announcements, Answer, BeatingMembership, Entry
from sdqueue.consumer.membership.epoch import Epoch
from sdqueue.consumer.membership.membership import Seen, Sighting
from sdqueue.sessions.redis.connection import CONNECTION_ERRORS, connect, unavailable
from sdqueue.sessions.redis.keys import Keys, KeySpace
from sdqueue.sessions.redis.scripts import Script, ScriptRunner

ANSWER_S: Final = 1.5
"""A beat without an answer for so long is given up, so that another one has time within a member's life."""

NOTHING_SAID: Final = "0:0"
"""Stands for the announcement of a member that has made none, as in ``beat.lua``."""

_FOLDER: Final = resources.files(__package__)
BEAT: Final = Script("beat", folder=_FOLDER)
LEAVE: Final = Script("leave", folder=_FOLDER)
ADVANCE: Final = Script("advance", folder=_FOLDER)


class RedisMembership(BeatingMembership):
    """A membership in a pool whose list is in Redis: a sorted set by the server's clock, and a hash beside it.

    It has a connection of its own, so that sessions under way do not hold up a sign of life.

    Parameters:
        topology: of the pool; all members have the same.
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        name: of the consumer.
        client: instead of the URL, a redis-py client of the application's own.

    Raises:
        ConfigurationError: the URL or the namespace cannot work.
    """

    def __init__(
        self,
        topology: Topology,
        url: str | None = None,
        *,
        name: str = "consumer",
        client: Redis | RedisCluster | None = None,
    ) -> None:
        super().__init__(topology.turn_queues, name=name)
        self._link = connect(url, client)
        self._keys: Keys = KeySpace(topology.namespace).pool
        self._scripts = ScriptRunner(self._link, in_flight=1, timeout_s=min(ANSWER_S, self._link.timeout_s))

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()
        await self._scripts.aclose()
        await self._link.aclose()

    async def beat(self, said: str) -> Answer:
        """See :class:`BeatingMembership`."""
        return await _ask(self._scripts, self._keys, self._name, said)

    async def sign_off(self) -> None:
        """See :class:`BeatingMembership`."""
        await self._scripts.call(LEAVE, self._keys, (self._name,))

    @property
    def _name(self) -> bytes:
        return self.member.encode("utf-8", "surrogateescape")


class RedisPool:
    """The :class:`Pool` of the members that have signed in Redis.

    Parameters:
        topology, url, client: see :class:`RedisMembership`.
    """

    def __init__(
        self, topology: Topology, url: str | None = None, *, client: Redis | RedisCluster | None = None
    ) -> None:
        self._topology = topology
        self._link = connect(url, client)
        self._keys: Keys = KeySpace(topology.namespace).pool
        self._scripts = ScriptRunner(self._link)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._scripts.aclose()
        await self._link.aclose()

    async def look(self) -> Sighting:
        """See :class:`Pool`."""
        answer = await self._read()
        epoch, now = Epoch.read(answer.epoch), asyncio.get_running_loop().time()
        # Members may know more partitions than whoever looks has been told of.
        known = (self._topology.partitions, epoch.partitions, epoch.target or 0) if epoch else ()
        written = Announcements(
            Topology(self._topology.namespace, max(known, default=self._topology.partitions)).turn_queues
        )
        members = {entry.member: Seen(written.read(entry.said), now) for entry in answer.entries}
        return Sighting(members, now, epoch=epoch)

    async def _read(self) -> Answer:
        """The list as it is. By plain commands: whoever only looks may have the right to read it, and no other, and a
        script needs the right to write what it names."""
        members, announced, epoch = self._keys
        commands = (("GET", epoch), ("TIME",), ("ZRANGE", members, 0, -1, "WITHSCORES"), ("HGETALL", announced))
        replies = await self._link.execute(commands, self._link.timeout_s)
        for reply in replies:
            if isinstance(reply, CONNECTION_ERRORS):
                raise unavailable(self._link, reply)
            if isinstance(reply, Exception):
                raise reply
        now_s = int(replies[1][0]) + int(replies[1][1]) / 1e6
        said = {_text(member): _text(words) for member, words in _pairs(replies[3])}
        entries = [
            Entry(_text(member), int(float(signed)), said.get(_text(member), NOTHING_SAID))
            for member, signed in _pairs(replies[2])
            if float(signed) > (now_s - LIFE_S) * 1000
        ]
        return Answer(False, entries, None if replies[0] is None else _text(replies[0]))

    async def advance(self, seen: Epoch | None, wanted: Epoch) -> bool:
        """See :class:`Pool`."""
        args = (seen.write() if seen else "", wanted.write())
        return bool(await self._scripts.call(ADVANCE, self._keys, args))


async def _ask(scripts: ScriptRunner, keys: Keys, name: bytes, said: str) -> Answer:
    added, epoch, *listed = await scripts.call(BEAT, keys, (name, said, int(LIFE_S * 1000)))
    texts = [_text(value) for value in listed]
    entries = [
        Entry(member, int(float(signed)), said)
        for member, signed, said in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]
    return Answer(bool(added), entries, None if epoch is None else _text(epoch))


def _pairs(reply: Any) -> Iterable[tuple[Any, Any]]:
    """What Redis lists in pairs, as it says it or as redis-py's client of a cluster has arranged it."""
    if isinstance(reply, Mapping):
        return reply.items()
    if reply and isinstance(reply[0], tuple | list):
        return [(first, second) for first, second in reply]
    return zip(reply[::2], reply[1::2], strict=True)


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
