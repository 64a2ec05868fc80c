"""Publisher: turns that are not known yet go to the broker, in order, and are remembered once it has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sdqueue.client import Client, Replies
from sdqueue.errors import BrokerUnavailable, SdqueueError, StoreUnavailable
from sdqueue.messages import InboundTurn
from sdqueue_producers.channel import Channel
from sdqueue_producers.ingress.order import Place, SessionQueues
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.request import Receipt
from sdqueue_producers.state import ProducerState

STATE_S: Final = 0.5
"""Seconds that the state may take. What is known is an economy: consumers drop repeats as well."""

OnPublished = Callable[[Channel, InboundTurn], None]


class Publisher:
    """Publishes the turns of receipts.

    Parameters:
        client: has the broker.
        state: knows the turns of the last day.
        kept_ids_s: seconds that it is to know them.
        observer: hears of it.
        on_published: called with each turn that the broker has.
        declare: whether the queue of a channel's replies is made where it is missing.
    """

    def __init__(
        self,
        client: Client,
        state: ProducerState,
        kept_ids_s: float,
        observer: ProducerObserver,
        on_published: OnPublished,
        *,
        declare: bool = True,
    ) -> None:
        self._client = client
        self._state = state
        self._kept_ids_s = kept_ids_s
        self._observer = observer
        self._on_published = on_published
        self._declare = declare
        self._queues = SessionQueues()
        self._kept: set[str] = set()

    def join(self, receipt: Receipt) -> Place:
        """Let these turns be the next of their sessions. The place must be left by :meth:`publish` or :meth:`asked`."""
        return self._queues.join([turn.session_id for turn in receipt.turns])

    async def publish(
        self, channel: Channel, receipt: Receipt, place: Place, headers: Mapping[str, str], until: float
    ) -> None:
        """Publish those turns of a receipt that are not known; returns when the broker has them for good.

        What the receipt has to be done after that is done by then, too.

        Parameters:
            channel: whose they are.
            receipt: has them.
            place: among others of their sessions; it is left.
            headers: of the messages.
            until: on the loop's clock, when it must be over.

        Raises:
            SdqueueError: one of them was not confirmed; those before it were. Or what was to be done after it failed.
        """
        confirmed: list[str] = []
        try:
            await self._reach(place, until)
            new = await self._unknown(channel, receipt)
            try:
                for turn in new:
                    await self._confirmed(channel, turn, headers, until)
                    confirmed.append(_id(turn))
                confirmed.extend(receipt.aliases if new else ())
            finally:
                await self._remember(channel, confirmed)
            await _after(receipt, until)
        finally:
            place.leave()

    @asynccontextmanager
    async def asked(
        self, channel: Channel, receipt: Receipt, place: Place, headers: Mapping[str, str], until: float
    ) -> AsyncGenerator[Replies, None]:
        """Publish the one turn of a receipt, known or not, and listen to its replies for the length of the block.

        Parameters and errors: as :meth:`publish`; errors before the block is entered.
        """
        (turn,) = receipt.turns
        try:
            await self._reach(place, until)
            try:
                await self._keep_replies(channel, until)
                listening = self._client.submit(turn, headers=headers, timeout=_left(until))
                replies = await listening.__aenter__()
            except SdqueueError as error:
                self._observer.turn_unconfirmed(channel=channel.name, turn_id=_id(turn), error=str(error))
                raise
            try:
                self._published(channel, turn)
                await self._remember(channel, [_id(turn), *receipt.aliases])
            except BaseException:
                await listening.__aexit__(None, None, None)
                raise
        finally:
            place.leave()
        try:
            yield replies
        finally:
            await listening.__aexit__(None, None, None)

    async def _reach(self, place: Place, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await place.reached()
        except TimeoutError:
            raise BrokerUnavailable(
                "turns of the same session before this one are not confirmed yet; send it again"
            ) from None

    async def _confirmed(self, channel: Channel, turn: InboundTurn, headers: Mapping[str, str], until: float) -> None:
        try:
            await self._keep_replies(channel, until)
            await self._client.publish(turn, headers=headers, timeout=_left(until))
        except SdqueueError as error:
            self._observer.turn_unconfirmed(channel=channel.name, turn_id=_id(turn), error=str(error))
            raise
        self._published(channel, turn)

    async def _keep_replies(self, channel: Channel, until: float) -> None:
        """A turn may be answered before any egress of its channel has run, and the answer must not be dropped."""
        if channel.name not in self._kept:
            await self._client.keep_replies(channel.name, declare=self._declare, timeout=_left(until))
            self._kept.add(channel.name)

    def _published(self, channel: Channel, turn: InboundTurn) -> None:
        self._observer.turn_published(channel=channel.name, session_id=turn.session_id, turn_id=_id(turn))
        self._on_published(channel, turn)

    async def _unknown(self, channel: Channel, receipt: Receipt) -> list[InboundTurn]:
        """Those turns that are not known by their ids; of a single one, the aliases count as well."""
        turns = list(receipt.turns)
        if not turns:
            return []
        aliases = receipt.aliases if len(turns) == 1 else ()
        names = [_id(turn) for turn in turns] + list(aliases)
        try:
            async with asyncio.timeout(STATE_S):
                values = await self._state.get([_seen(channel, name) for name in names])
        except (SdqueueError, TimeoutError) as error:
            self._away(error)
            return turns
        known = {name for name, value in zip(names, values, strict=True) if value is not None}
        if not known.isdisjoint(aliases):
            known |= {_id(turn) for turn in turns}
        for turn in turns:
            if _id(turn) in known:
                self._observer.turn_repeated(channel=channel.name, turn_id=_id(turn))
        return [turn for turn in turns if _id(turn) not in known]

    async def _remember(self, channel: Channel, names: Sequence[str]) -> None:
        if not names:
            return
        try:
            async with asyncio.timeout(STATE_S):
                await self._state.set({_seen(channel, name): "1" for name in names}, ttl_s=self._kept_ids_s)
        except (SdqueueError, TimeoutError) as error:
            self._away(error)

    def _away(self, error: Exception) -> None:
        told = str(error) or f"no answer within {STATE_S:g} s"
        self._observer.backend_away(backend="state", error=told)


async def _after(receipt: Receipt, until: float) -> None:
    if receipt.after is None:
        return
    try:
        async with asyncio.timeout_at(until):
            await receipt.after()
    except TimeoutError:
        raise StoreUnavailable("what is to be remembered of it was not taken in time; send it again") from None


def _seen(channel: Channel, name: str) -> str:
    return f"{channel.name}:seen:{name}"


def _id(turn: InboundTurn) -> str:
    assert turn.id is not None  # a Receipt has seen to it
    return turn.id


def _left(until: float) -> float:
    return max(until - asyncio.get_running_loop().time(), 0.001)
