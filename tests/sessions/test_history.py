"""History policies: what of a conversation is kept, and what becomes of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sdqueue import MessageLimit, Summary, TokenLimit
from sdqueue.agents import ChatMessage
from sdqueue.sessions import estimate_tokens
from sdqueue.sessions.history import MESSAGE_TOKENS
from sdqueue.sessions.pairs import are_whole, mended
from tests.sessions.test_pairs import anything, calls, note, result, says, user, whole

PROMPT = ChatMessage("system", "You are kind.")


def talk(first: int, last: int) -> list[ChatMessage]:
    return [message for n in range(first, last + 1) for message in (user(f"u{n}"), says(f"a{n}"))]


def test_the_oldest_turns_go_and_the_instructions_stay() -> None:
    """Given 4 turns behind a prompt and a limit of 8, then three quarters of the limit are left."""
    assert MessageLimit(8).cut([PROMPT, *talk(1, 4)]) == [PROMPT, *talk(3, 4)]
    assert MessageLimit(8, keep=1).cut([PROMPT, *talk(1, 4)]) == [PROMPT, *talk(2, 4)]


def test_a_turn_is_kept_whole_with_its_calls_and_results() -> None:
    long = [user("new"), calls("1", "2"), result("1"), result("2"), calls("3"), result("3"), says("done")]
    assert MessageLimit(3).cut([PROMPT, *talk(1, 3), *long]) == [PROMPT, *long], "the latest turn alone is too long"
    assert MessageLimit(8, keep=1).cut([PROMPT, *talk(1, 3), *long]) == [PROMPT, *long]


def test_notes_within_a_conversation_are_no_instructions() -> None:
    items = [PROMPT, user("1"), says("1"), note(), user("2"), says("2"), note()]
    assert MessageLimit(5, keep=1).cut(items) == [PROMPT, user("2"), says("2"), note()], "the last one waits for a turn"


def test_an_agent_that_keeps_nothing_of_the_user_is_cut_between_messages() -> None:
    items = [PROMPT, says("1"), calls("1"), result("1"), says("2"), says("3")]
    assert MessageLimit(4, keep=0.75).cut(items) == [PROMPT, says("2"), says("3")]
    assert MessageLimit(5, keep=1).cut(items) == [PROMPT, *items[2:]]


def test_tokens_are_estimated_or_counted_with_those_of_calls() -> None:
    assert [estimate_tokens(text) for text in ("", "abc", "abcd", "abcde", "é" * 4, "\ud800")] == [0, 1, 1, 2, 2, 1]
    assert TokenLimit(9).weigh(user("abcd" * 10)) == 10 + MESSAGE_TOKENS
    words = TokenLimit(9, count=lambda text: len(text.split()))
    assert words.weigh(user("three small words")) == 3 + MESSAGE_TOKENS
    assert words.weigh(calls("1", text="see")) == 1 + 1 + 2 + MESSAGE_TOKENS  # look_up {"n": 1}
    limit = TokenLimit(100, count=len)
    assert limit.cut([user("x" * 60), says("y" * 60), user("x" * 30), says("y" * 30)]) == [
        user("x" * 30),
        says("y" * 30),
    ]


@pytest.mark.parametrize("make", [MessageLimit, TokenLimit])
def test_limits_that_leave_nothing_are_refused(make: type[MessageLimit]) -> None:
    with pytest.raises(ValueError, match="limit of 0 would leave nothing"):
        make(0)
    for keep in (0.0, 1.1):
        with pytest.raises(ValueError, match="keep is"):
            make(5, keep=keep)


policies = st.one_of(
    st.builds(MessageLimit, st.integers(1, 12), keep=st.sampled_from([0.3, 0.75, 1.0])),
    st.builds(TokenLimit, st.integers(1, 60), keep=st.sampled_from([0.3, 0.75, 1.0])),
)


@given(policies, whole())
def test_any_limit_keeps_a_suffix_of_whole_turns_behind_the_instructions(
    policy: MessageLimit, items: list[ChatMessage]
) -> None:
    kept = policy.cut(items)
    head = next((i for i, m in enumerate(items) if m.role != "system"), len(items))
    suffix = kept[head:]
    assert kept[:head] == items[:head]
    assert suffix == items[len(items) - len(suffix) :]
    assert are_whole(kept)
    users = [i for i, m in enumerate(items) if m.role == "user"]
    if suffix and len(kept) < len(items):
        assert suffix[0].role == ("user" if users else suffix[0].role) != "tool"
    if users:
        assert len(suffix) >= len(items) - users[-1], "the latest turn is never dropped"
        alone = items[:head] + items[users[-1] :]
        assert policy.cut(kept) == kept or len(policy.cut(kept)) < len(kept)
        assert sum(map(policy.weigh, kept)) <= max(policy.limit, sum(map(policy.weigh, alone)))


@given(policies, anything)
def test_a_broken_conversation_that_is_mended_is_never_parted(policy: MessageLimit, items: list[ChatMessage]) -> None:
    assert are_whole(policy.cut(mended(items)))


# Summaries


class Scribe:
    """Summarises by saying which messages it was given."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def __call__(self, messages: Sequence[ChatMessage]) -> str:
        self.asked.append([m.content for m in messages])
        return f"{len(messages)} messages up to {messages[-1].content}"


async def test_a_summary_stands_for_the_oldest_turns_and_is_made_from_the_one_before() -> None:
    scribe = Scribe()
    policy = Summary(MessageLimit(8), scribe, heading="So far: ")
    first = await policy.shorten([PROMPT, *talk(1, 4)])
    assert first == [PROMPT, ChatMessage("system", "So far: 4 messages up to a2"), *talk(3, 4)]
    again = await policy.shorten([*first, *talk(5, 6)])
    assert again == [PROMPT, ChatMessage("system", "So far: 5 messages up to a4"), *talk(5, 6)]
    assert scribe.asked == [
        ["u1", "a1", "u2", "a2"],
        ["So far: 4 messages up to a2", "u3", "a3", "u4", "a4"],
    ]
    assert policy.cut([*again, *talk(7, 9)]) == [*again[:2], *talk(8, 9)], "without help the summary stays"


async def test_where_nothing_can_go_nothing_is_summarised() -> None:
    scribe = Scribe()
    assert await Summary(MessageLimit(1), scribe).shorten([PROMPT, *talk(1, 1)]) == [PROMPT, *talk(1, 1)]
    assert scribe.asked == []


@pytest.mark.parametrize(
    ("made", "error"),
    [(None, "is a NoneType"), ("  ", "is empty"), ("x" * 400, "weighs .* of the 100 that are allowed")],
)
async def test_what_is_no_summary_is_refused(made: str | None, error: str) -> None:
    async def summarise(messages: Sequence[ChatMessage]) -> str:
        return made  # type: ignore[return-value]

    policy = Summary(TokenLimit(100), summarise)
    with pytest.raises((TypeError, ValueError), match=error):
        await policy.shorten([*talk(1, 30)])


async def test_a_summary_has_its_own_time() -> None:
    async def summarise(messages: Sequence[ChatMessage]) -> str:
        await asyncio.Event().wait()
        return "never"

    with pytest.raises(TimeoutError, match=r"no summary within 0\.01 s"):
        await Summary(MessageLimit(2), summarise, timeout_s=0.01).shorten(talk(1, 5))


@given(st.integers(2, 12), st.lists(whole(), min_size=1, max_size=6))
def test_any_conversation_has_at_most_one_summary_and_stays_whole(limit: int, parts: list[list[ChatMessage]]) -> None:
    scribe = Scribe()
    policy = Summary(MessageLimit(limit), scribe, heading="So far: ")
    items: list[ChatMessage] = []

    async def go_on() -> None:
        nonlocal items
        for part in parts:
            items = [*items, *part]
            if sum(map(policy.weigh, items)) > policy.limit:
                items = await policy.shorten(items)
            assert sum(m.content.startswith("So far: ") for m in items) <= 1
            assert are_whole(items)

    assume(any(parts))
    asyncio.run(go_on())
