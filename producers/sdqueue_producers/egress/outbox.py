"""Outbox: works off replies that wait for a later try, session by session.

Every process of a channel looks for sessions that are due, whether the broker gives it deliveries or not. Whoever has
the lease of a session works on it, first reply first. Meanwhile new replies of that session are put behind those that
wait, since the lane looks whether there are any before it delivers:

- The lane sees some while the last of them is being taken out: its reply is alone in the outbox then, and due.
- The lane sees none: the last one was taken out, and that happens after it was delivered.
- Nobody but the lane puts anything in, so nothing can come in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sdqueue_producers.egress.desk import Desk
from sdqueue_producers.egress.job import Job
from sdqueue_producers.egress.options import EgressOptions
from sdqueue_producers.egress.patience import Patience, Released
from sdqueue_producers.egress.patient import PatientState

PATIENCE_S: Final = 5.0
"""A wait that is shorter is waited for under the lease."""

RENEWALS: Final = 4
"""Leases are renewed so often in their life."""

OVER_S: Final = 0.001
"""The rest of a lease that is given back."""

SHARE: Final = 2
"""One in so many calls may be the outbox's: where a platform hangs, its sessions wait here, and others must go on."""


class Outbox:
    """The outboxes of a channel's sessions.

    Parameters:
        channel: whose.
        desk: delivers.
        state: has them.
        options: bounds.
        clock: seconds since 1970.
        on_defect: told of an exception that nobody has foreseen.
    """

    def __init__(
        self,
        channel: str,
        desk: Desk,
        state: PatientState,
        options: EgressOptions,
        *,
        clock: Callable[[], float],
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self._channel = channel
        self._desk = desk
        self._state = state
        self._options = options
        self._clock = clock
        self._on_defect = on_defect
        self._working: dict[str, asyncio.Task[None]] = {}
        self._leased: dict[str, Patience] = {}
        self._stirred = asyncio.Event()
        self._ending = False

    def wake(self) -> None:
        """Something was put in."""
        self._stirred.set()

    async def run(self) -> None:
        """Look for sessions that are due, until cancelled."""
        while not self._ending:
            self._stirred.clear()
            room = max(self._options.parallel // SHARE, 1) - len(self._working)
            if room > 0:
                due = await self._state.due(now=self._clock(), count=self._options.parallel + len(self._working))
                for session in [session for session in due if session not in self._working][:room]:
                    task = asyncio.create_task(self._work(session), name=f"outbox of session {session}")
                    self._working[session] = task
            try:
                async with asyncio.timeout(self._options.poll_s):
                    await self._stirred.wait()
            except TimeoutError:
                continue

    async def renew(self) -> None:
        """Keep the leases of the sessions that are worked on, until cancelled; let go of those that are lost."""
        while True:
            await asyncio.sleep(self._options.lease_s / RENEWALS)
            leased = list(self._leased.items())
            kept = await asyncio.gather(*(self._take(session, self._options.lease_s) for session, _ in leased))
            for (_, patience), ours in zip(leased, kept, strict=True):
                if not ours:
                    patience.release()

    async def drain(self, grace_s: float) -> None:
        """Begin nothing any more, and wait so long for what is in flight."""
        self._ending = True
        self._stirred.set()
        for patience in self._leased.values():
            patience.release()
        if self._working:
            _, late = await asyncio.wait(list(self._working.values()), timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, session: str) -> None:
        try:
            if not await self._take(session, self._options.lease_s):
                return
            patience = self._leased[session] = Patience(PATIENCE_S)
            try:
                await self._work_off(session, patience)
            finally:
                del self._leased[session]
            # Not when it is cancelled, at the end: a state that is away must not hold that up.
            await self._take(session, OVER_S)
        except Exception as error:  # noqa: BLE001 -- it surfaces where the egress is waited for
            self._on_defect(error)
        finally:
            del self._working[session]

    async def _work_off(self, session: str, patience: Patience) -> None:
        while not self._ending:
            parked = await self._state.parked(session)
            if parked is None or parked.due_at > self._clock():
                return
            try:
                job = Job.unparked(parked)
            except ValueError as error:
                await self._desk.bury_parked(session, parked, str(error))
                await self._state.unpark(session, parked.key)
                continue
            patience.restart(PATIENCE_S)
            try:
                later = await self._desk.work_off(job, patience)
            except Released:
                return
            if later is None:
                await self._state.unpark(session, parked.key)
            else:
                due_at = self._clock() + later.seconds
                await self._state.postpone(session, parked.key, attempts=later.attempts, due_at=due_at)

    async def _take(self, session: str, seconds: float) -> bool:
        """Have the lease of a session for so long, unless it is another's."""
        key, name = f"{self._channel}:lane:{session}", self._state.name
        return await self._state.swap(key, name, name, ttl_s=seconds)
