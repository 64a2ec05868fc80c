"""Assignment: which member of a pool owns which partition, computed by everybody from the same list."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Roles:
    """Who has to do with a queue.

    Parameters:
        owner: should be active on it.
        standby: takes over at once when the owner dies: whoever owns the queue in a pool without the owner.
            ``None`` in a pool of one.
    """

    owner: str
    standby: str | None


def assign(partitions: Sequence[str], members: Collection[str], *, shared: Sequence[str] = ()) -> dict[str, Roles]:
    """The owner and the standby of every queue.

    Capacity-bounded rendezvous hashing: every pair of a partition and a member has a hash, and the pairs are served
    from the smallest one on, as long as the partition is free and the member has room. ``N`` partitions on ``W``
    members have room for ``N // W`` at each, and ``N % W`` of the members for one more, so the loads differ by one
    at most. It depends on nothing but the names, so all who know them get the same.

    Parameters:
        partitions: the queues that are spread evenly.
        members: ids, at least one; their order does not matter.
        shared: further queues, each placed by its hashes alone, so that they do not disturb the spread.

    Raises:
        ValueError: there is no member.
    """
    if not members:
        raise ValueError("members: an assignment needs at least one, got none")
    return dict(_assign(tuple(partitions), tuple(sorted(set(members))), tuple(shared)))


@lru_cache(maxsize=8)  # the consumers of one process, and a list that comes back, ask the same again
def _assign(partitions: tuple[str, ...], names: tuple[str, ...], shared: tuple[str, ...]) -> dict[str, Roles]:
    pairs = sorted(_pairs(partitions, names))
    owners = _place(pairs, len(partitions), len(names))
    without = {
        gone: _place([pair for pair in pairs if pair[2] != gone], len(partitions), len(names) - 1)
        for gone in (set(owners.values()) if len(names) > 1 else ())
    }
    roles = {queue: Roles(owners[queue], without[owners[queue]][queue] if without else None) for queue in partitions}
    for queue in shared:
        first, second = (*(member for _, _, member in sorted(_pairs([queue], names))), None)[:2]
        assert first is not None
        roles[queue] = Roles(first, second)
    return roles


_Pair = tuple[bytes, str, str]


def _pairs(queues: Sequence[str], members: Sequence[str]) -> Iterator[_Pair]:
    """All pairs with their hashes. Not Python's ``hash``, which differs from process to process."""
    for member in members:
        seen = blake2b(member.encode("utf-8", "surrogatepass"), digest_size=8, person=b"sdqueue-owner")
        for queue in queues:
            both = seen.copy()
            both.update(b"\0" + queue.encode("utf-8", "surrogatepass"))
            yield both.digest(), queue, member


def _place(pairs: Sequence[_Pair], partitions: int, members: int) -> dict[str, str]:
    """Serve the pairs in their order. All partitions are placed: while one is free, some member has room."""
    floor, extras = divmod(partitions, members)
    owners: dict[str, str] = {}
    load: dict[str, int] = {}
    for _, queue, member in pairs:
        if queue in owners:
            continue
        has = load.get(member, 0)
        if has > floor or (has == floor and not extras):
            continue
        extras -= has == floor
        owners[queue] = member
        load[member] = has + 1
        if len(owners) == partitions:
            break
    return owners
