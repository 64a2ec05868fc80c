"""HistoryLimits: the policies of a worker, applied to one conversation at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sdqueue.agents import ChatMessage
from sdqueue.sessions.conversation import own
from sdqueue.sessions.history import HistoryPolicy
from sdqueue.sessions.pairs import are_whole, mended

HARD: Final = 2
"""A conversation of more than so many times its limit, which could not be shortened as it should be, is cut."""

Weights = tuple[int, ...]
"""What a conversation weighs, by each policy."""


class HistoryLimits:
    """Several policies, each applied to what the one before has left.

    Weights are carried from turn to turn, so that a turn weighs only what it adds.
    """

    def __init__(self, policies: Sequence[HistoryPolicy] = ()) -> None:
        self._policies = tuple(policies)

    @property
    def any(self) -> bool:
        """Whether there is a policy at all."""
        return bool(self._policies)

    def weigh(self, messages: Sequence[ChatMessage], onto: Weights | None = None) -> Weights:
        """What these messages weigh, together with what is known to weigh ``onto``."""
        base = (0,) * len(self._policies) if onto is None else onto
        return tuple(
            known + sum(map(policy.weigh, messages)) for known, policy in zip(base, self._policies, strict=True)
        )

    def are_exceeded(self, weights: Weights) -> bool:
        """Whether a conversation of these weights is to be shortened."""
        return any(weight > policy.limit for weight, policy in zip(weights, self._policies, strict=True))

    async def shorten(
        self, messages: list[ChatMessage], *, timeout: float | None
    ) -> tuple[list[ChatMessage], BaseException | None]:
        """The conversation within the limits, and what went wrong where a policy could not bring it there.

        Parameters:
            messages: the conversation; it is not changed.
            timeout: seconds for all policies together; ``None``: each keeps its own time.
        """
        clock = asyncio.timeout(timeout)
        problem: BaseException | None = None
        try:
            async with clock:
                for policy in self._policies:
                    if _weight(policy, messages) > policy.limit:
                        messages = _whole(await policy.shorten(messages))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # somebody asked for it
            problem = error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 -- the caller reports it
            # An answer is not lost for its history.
            problem = error
            if clock.expired():
                problem = TimeoutError(f"the history was not shortened in the {timeout:.1f} s that the turn had left")
        return (messages if problem is None else self.cut(messages)), problem

    def cut(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """The conversation without its oldest part, where it exceeds a limit by far; at once, and without help."""
        try:
            for policy in self._policies:
                if _weight(policy, messages) > HARD * policy.limit:
                    messages = _whole(policy.cut(messages))
        except Exception:  # noqa: BLE001 -- the policy has just failed, which is reported, and here it fails again
            return messages
        return messages


def _weight(policy: HistoryPolicy, messages: Sequence[ChatMessage]) -> int:
    return sum(map(policy.weigh, messages))


def _whole(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    kept = [own(message) for message in messages]
    return kept if are_whole(kept) else mended(kept)
