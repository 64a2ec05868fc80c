"""Slack's markup as plain text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdqueue_producers.slack.plain import mentions, plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", "hello"),
        ("<@UBOT1> hello", "hello"),
        ("<@UBOT1|bot>: hello", ": hello"),
        ("hello <@UBOT1>", "hello"),
        ("hey <@UBOT1>  look", "hey look"),
        ("one\n<@UBOT1> two", "one\n two"),
        ("<@UBOT1>", ""),
        ("ask <@U2>", "ask @U2"),
        ("ask <@U2|ann>", "ask @ann"),
        ("in <#C2|random>", "in #random"),
        ("in <#C2>", "in #C2"),
        ("<!here> <!channel> <!everyone|everyone>", "@here @channel @everyone"),
        ("<!subteam^S1|@oncall>", "@oncall"),
        ("<!subteam^S1>", "@S1"),
        ("<!date^1392734382^{date}|18 February>", "18 February"),
        ("<https://a.example/x?a=1&amp;b=2>", "https://a.example/x?a=1&b=2"),
        ("<https://a.example/|a.example>", "https://a.example/"),
        ("<https://a.example/doc|the doc>", "the doc (https://a.example/doc)"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2", "1 < 2 && 3 > 2"),
        ("&amp;lt;", "&lt;"),
        ("&lt;@U2&gt;", "<@U2>"),
        ("<>", ""),
        ("a < b", "a < b"),
    ],
)
def test_a_person_sees(text: str, shown: str) -> None:
    assert plain_text(text, bot="UBOT1") == shown


def test_another_bots_name_is_no_mention_of_ours() -> None:
    assert mentions("<@UBOT1> x", "UBOT1")
    assert mentions("x <@UBOT1|bot>", "UBOT1")
    assert not mentions("<@UBOT12> x", "UBOT1")
    assert plain_text("<@UBOT12> x", bot="UBOT1") == "@UBOT12 x"


@settings(deadline=None)
@given(st.text(alphabet="<>|@#!^&;lt gamp:U1/\n", max_size=60))
def test_nothing_raises(text: str) -> None:
    plain_text(text, bot="U1")


@pytest.mark.parametrize("text", ["<" * 40_000, "<@U1 " * 8_000, " \t" * 20_000 + "x", "<a|" * 13_000])
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()  # of this process: what others do meanwhile is not its fault
    plain_text(text, bot="U1")
    assert time.process_time() - began < 1
