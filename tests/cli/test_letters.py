"""Dead letters as they are shown: everything of them, and nothing that does something to a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from sdqueue.brokers import Message
from sdqueue.cli.letters import as_fields, body_of, moment, print_details, print_table, safe
from sdqueue.deadletters import DeadLetter
from sdqueue.errors import ConfigurationError
from sdqueue.messages import DeadTurn

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def letter(body: bytes, **known: object) -> DeadLetter:
    why = DeadTurn.model_validate({"reason": "agent-failed", "error": "no idea", "died_at": NOON} | known)
    return DeadLetter(why, Message(body, message_id="m", headers=why.headers() | {"traceparent": "00-a"}))


def test_details_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"turn_id": "t1", "session_id": "s1", "channel": "slack", "queue": "q.0001", "routing_key": "0001"}
    print_details(letter(b'{"a":{"b":1}}', **known, consumer="one", attempts=3, replay=2, trace="bot.py:3\nKeyError"))
    shown = capsys.readouterr().out
    for words in (*known.values(), "one", "no idea", "2026-03-01 12:00:00Z", "  bot.py:3\n  KeyError", "traceparent"):
        assert words in shown
    assert '    "a": {\n      "b": 1\n    }' in shown
    assert "body, 13 bytes" in shown
    assert "sdqueue-reason" not in shown, "said above already"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"not json", b"", b"[" * 5000])
def test_any_body_is_shown_and_can_be_had_by_scripts(capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    print_details(letter(body))
    assert f"body, {len(body)} bytes" in capsys.readouterr().out or not body
    fields = json.loads(json.dumps(body_of(letter(body))))["message"]
    assert fields.get("body", "").encode() == body or fields["body_base64"] == "//4="


def test_what_a_letter_quotes_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "\x1b]0;owned\x07\x9b2J\r[red]x"
    many = letter(nasty.encode(), turn_id=nasty, session_id=nasty, error=nasty, trace=nasty, channel=nasty)
    print_table([many])
    print_details(many)
    shown = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "[red]" in shown
    assert safe("héllo 🦊\n\t") == "héllo 🦊\n\\t"


def test_a_letter_is_a_line_with_its_ids_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """To be copied, and to be found by grep; of a long error as much as fits."""
    names = ["t" * 100, "s" * 256]
    print_table([
        letter(b"", turn_id=names[0], session_id=names[1], error="e" * 1000),
        letter(b"", turn_id="t1", session_id="s1", error="two\nlines", attempts=3, replay=1, channel="slack"),
    ])  # fmt: skip
    head, long, short = capsys.readouterr().out.splitlines()
    assert head.split() == ["turn", "session", "channel", "reason", "attempts", "replays", "died", "at", "error"]
    assert all(name in long for name in names)
    assert long.endswith("eeee…")
    assert len(long) < 600
    assert short.split() == ["t1", "s1", "slack", "agent-failed", "3", "1", "2026-03-01", "12:00:00Z", "two", "lines"]
    assert head.index("error") == short.index("two")


def test_a_letter_as_json_has_all_that_is_known() -> None:
    known = letter(b"x", turn_id="t1", session_id="s1", died_at=None)
    assert as_fields(known) == {"name": "t1", "fingerprint": known.fingerprint, **known.why.model_dump(mode="json")}
    assert as_fields(known)["died_at"] is None


def test_a_time_is_a_date_or_so_long_ago() -> None:
    assert moment("--since", None) is None
    assert moment("--since", "2026-03-01T12:00Z") == NOON
    assert moment("--since", "2026-03-01T13:00+01:00") == NOON
    local = moment("--since", "2026-03-01")
    assert local is not None
    assert local.tzinfo is not None
    for text, ago in {"90s": timedelta(seconds=90), "30m": timedelta(minutes=30), "7d": timedelta(days=7)}.items():
        found = moment("--since", text)
        assert found is not None
        assert abs(datetime.now(UTC) - ago - found) < timedelta(minutes=1)
    for wrong in ("", "noon", "5", "5w", "-1h", "99999999999999d"):
        with pytest.raises(ConfigurationError, match="--until"):
            moment("--until", wrong)
