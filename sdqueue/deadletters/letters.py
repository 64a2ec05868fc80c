"""DeadLetters: the queue of dead letters, to be looked through, put back, or thrown away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sdqueue.brokers import Broker
from sdqueue.deadletters.letter import DeadLetter, LetterFilter
from sdqueue.deadletters.reading import Reading
from sdqueue.errors import RecordCorrupt
from sdqueue.sessions import LockBackend, SessionStore
from sdqueue.sessions.parking import unpark

EVERYTHING: Final = LetterFilter()


@dataclass(frozen=True)
class Batch:
    """What a look through the letters has found or done.

    Parameters:
        letters: those that were found, put back or thrown away, in the order in which they died.
        matching: how many fit; more than ``letters`` where a limit was given.
        waiting: how many waited at all.
        alone: nobody else had letters in hand then, so that these are all.
    """

    letters: tuple[DeadLetter, ...]
    matching: int
    waiting: int
    alone: bool


class DeadLetters:
    """The turns that could not be answered, and the replies that could not be delivered.

    ::

        async with open_broker(settings) as broker:
            dead = DeadLetters(broker)
            for letter in (await dead.list(LetterFilter(reason="agent-failed"))).letters:
                print(letter.name, letter.why.error)
            await dead.replay(LetterFilter(session_id="user-42"))

    Every call looks once through the letters that wait at its beginning. It holds them meanwhile, and whatever it has
    not replayed or discarded returns to the queue, also when it is cancelled or its process killed. One reader goes
    after the other; letters that come meanwhile are left to the next call. In memory are those that fit, up to the
    limit.

    Parameters:
        broker: entered by the caller.
        store, locks: those of the consumers, needed where sessions are parked: one whose dead turn is discarded is
            released.
        patience_s: seconds to wait for another reader. After that, what it has in hand is not seen (``Batch.alone``).

    Raises:
        ValueError: only one of ``store`` and ``locks`` is given.

    All methods raise:
        BrokerUnavailable: the broker is not reached; what was done before stays done, and nothing is lost.
        TopologyMissing: there is no queue of dead letters.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        store: SessionStore | None = None,
        locks: LockBackend | None = None,
        patience_s: float = 10.0,
    ) -> None:
        if (store is None) != (locks is None):
            raise ValueError("give both store and locks, or none of them: a session is released under its lock")
        self._broker = broker
        self._store = store
        self._locks = locks
        self._patience_s = patience_s

    async def list(self, which: LetterFilter = EVERYTHING, *, limit: int | None = None) -> Batch:
        """The letters, all of them left where they are.

        Parameters:
            which: the letters.
            limit: the oldest so many; default: all.
        """
        async with self._read(which, limit) as reading:
            letters = await reading.letters()
            return _batch(reading, letters)

    async def replay(
        self,
        which: LetterFilter,
        *,
        limit: int | None = None,
        on_done: Callable[[DeadLetter], object] | None = None,
    ) -> Batch:
        """Put turns back, oldest first, each under its own id, behind what waits in its partition; and replies, which
        are delivered again by the producers of their channel, though they are remembered as dead.

        Consumers run it again, since it is marked as a replay of this death, and its answer goes out under
        ``<turn id>:<number of the replay>``. The letter is taken away when the broker has the turn for good. Whatever
        stops this in between leaves both; the letter may then be replayed again, and the turn does not run twice.
        A session that is parked behind the turn goes on when the turn has been answered.

        Parameters:
            which: the letters; ``LetterFilter()`` for all.
            limit: the oldest so many.
            on_done: told of each letter that is done.

        Raises:
            TopologyMismatch: the broker has another number of partitions.
            Unroutable: there is no queue of a dead reply's channel; its letter and those behind it are left.
            PublishRejected: the broker refuses a turn, as a full queue does; its letter and those behind it are left.
        """
        broker, topology = self._broker, self._broker.topology
        await broker.check()

        async def put_back(letter: DeadLetter) -> None:
            await broker.publish(*letter.place(topology), letter.revived())

        return await self._clear(put_back, which, limit, on_done)

    async def discard(
        self,
        which: LetterFilter,
        *,
        limit: int | None = None,
        on_done: Callable[[DeadLetter], object] | None = None,
    ) -> Batch:
        """Throw letters away for good. A session that is parked behind one goes on, before the letter is gone.

        Parameters:
            which: the letters; ``LetterFilter()`` for all.
            limit: the oldest so many.
            on_done: told of each letter that is done.

        Raises:
            StoreUnavailable, LockError, VersionConflict: a session could not be released now; its letter and those
                behind it are left.
            RecordTooNew: a newer release wrote the session, and must discard its letters.
        """

        async def throw_away(letter: DeadLetter) -> None:
            if letter.why.session_id and not letter.is_reply:
                await self.release(letter.why.session_id, letter.why.turn_id)

        return await self._clear(throw_away, which, limit, on_done)

    async def release(self, session_id: str, turn_id: str) -> bool:
        """Let a session go on that is parked behind a dead turn, as discarding its letter does.

        By itself it is of use where the letter is gone, as after a purge of the queue.

        Parameters:
            session_id: the session.
            turn_id: the dead turn; a session that is parked behind another one stays parked.

        Returns:
            Whether it was parked behind this turn. Always false without a store.

        Raises:
            StoreUnavailable, LockError, VersionConflict, RecordTooNew: see :meth:`discard`.
        """
        if self._store is None or self._locks is None:
            return False
        try:
            # Most sessions are not parked, and some run for minutes under their lock.
            record = await self._store.load(session_id)
        except RecordCorrupt:
            return False  # it cannot be parked, and may be what the turn died of
        if record is None or record.parked_by != turn_id:
            return False
        return await unpark(self._store, self._locks, session_id, turn_id)

    def _read(self, which: LetterFilter, limit: int | None) -> Reading:
        return Reading(self._broker, which, limit=limit, patience_s=self._patience_s)

    async def _clear(
        self,
        work: Callable[[DeadLetter], Awaitable[None]],
        which: LetterFilter,
        limit: int | None,
        on_done: Callable[[DeadLetter], object] | None,
    ) -> Batch:
        """Do something about letters, and take each out of the queue when that is done."""
        async with self._read(which, limit) as reading:
            letters = await reading.letters()
            for letter in letters:
                reading.check_lost()
                await work(letter)
                reading.done_with(letter)
                if on_done is not None:
                    on_done(letter)
            return _batch(reading, letters)


def _batch(reading: Reading, letters: list[DeadLetter]) -> Batch:
    return Batch(tuple(letters), reading.matching, reading.waiting, reading.alone)
