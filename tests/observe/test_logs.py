"""What an operator reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sdqueue.messages import DeadTurn
from sdqueue.observe.logs import LogObserver, configure_logging
from sdqueue.observe.observer import Observer


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Logging is the process's: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_dead_turn_is_a_warning_with_error_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    letter = DeadTurn(reason="agent-failed", error="KeyError: 'x'", trace="  bot.py:3 in answer\nKeyError")
    LogObserver("c1").turn_settled(state="dead", session_id="s", turn_id="t", seconds=0.5, letter=letter, by=None)

    (line,) = shown(capsys)
    assert line["level"] == "warning"
    assert {"consumer": "c1", "session": "s", "turn": "t", "reason": "agent-failed"}.items() <= line.items()
    assert line["error"] == "KeyError: 'x'"
    assert "bot.py:3" in line["trace"]


def test_turns_that_end_well_are_shown_only_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    for level in ("info", "debug"):
        configure_logging(level, "json")
        LogObserver("c1").turn_settled(
            state="completed", session_id="s", turn_id="t", seconds=0.5, letter=None, by=None
        )

    assert [line["event"] for line in shown(capsys)] == ["turn completed"]


def test_an_outage_met_by_many_turns_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    observer = LogObserver("c1")
    for _ in range(500):
        observer.backend_away(backend="store", error="refused")
    observer.backend_away(backend="broker", error="refused")

    assert [line["backend"] for line in shown(capsys)] == ["store", "broker"]


def test_what_libraries_log_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    logging.getLogger("some.library").warning("disk %s", "full")
    logging.getLogger("aiormq.connection").error("said by the supervisor")

    (line,) = shown(capsys)
    assert (line["event"], line["logger"], line["level"]) == ("disk full", "some.library", "warning")


def test_the_log_shows_every_event_but_the_frequent_ones() -> None:
    """An event that is added must be shown, or left out here on purpose."""
    events = {name for name in vars(Observer) if not name.startswith("_")}

    assert events - set(vars(LogObserver)) == {"turn_received", "running", "oldest_delivery"}
