"""What an operator reads and counts of a producer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from sdqueue_producers.logs import ProducerLogs
from sdqueue_producers.metrics import ProducerMetrics
from sdqueue_producers.observer import ProducerObserver, ProducerObservers

EVENTS = [name for name in vars(ProducerObserver) if not name.startswith("_")]


@pytest.fixture
def log() -> Iterator[StringIO]:
    written = StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(written),
    )
    yield written
    structlog.reset_defaults()


def example(name: str) -> dict[str, object]:
    kinds = {"str": "text", "int": 3, "float": 0.5}
    found = inspect.signature(getattr(ProducerObserver, name)).parameters.values()
    return {p.name: kinds[str(p.annotation)] for p in found if p.name != "self"}


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_logged_and_counted(name: str, log: StringIO) -> None:
    registry = CollectorRegistry()
    observer = ProducerObservers(ProducerLogs("p1"), ProducerMetrics(registry))
    before = generate_latest(registry)
    getattr(observer, name)(**example(name))
    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert line["producer"] == "p1"
    assert (generate_latest(registry) != before) == (name != "queue_taken")  # which is one line, and no number


def test_an_outage_that_every_turn_meets_is_said_once(log: StringIO) -> None:
    logs = ProducerLogs("p1")
    for number in range(100):
        logs.turn_unconfirmed(channel="a", turn_id=str(number), error="no confirm")
        logs.backend_away(backend="state", error="refused")
    assert len(log.getvalue().splitlines()) == 2


def test_refusals_that_a_stranger_causes_are_told_by_their_reason_and_do_not_flood_the_log(log: StringIO) -> None:
    logs = ProducerLogs("p1")
    for _ in range(100):
        logs.request_answered(channel="a", status=401, reason="bad-signature", seconds=0.1)
        logs.request_answered(channel="a", status=413, reason="body-too-large", seconds=0.1)
    told = [json.loads(line)["reason"] for line in log.getvalue().splitlines()]
    assert told == ["bad-signature", "body-too-large"]


def test_a_defect_is_an_error_with_its_trace(log: StringIO) -> None:
    ProducerLogs("p1").channel_defect(channel="a", error="receive: KeyError", trace="in receive\nKeyError")
    line = json.loads(log.getvalue())
    assert (line["level"], line["trace"]) == ("error", "in receive\nKeyError")


@pytest.mark.parametrize(("outcome", "level"), [("found", "info"), ("resent", "warning"), ("dropped", "warning")])
def test_an_unknown_outcome_is_a_warning_where_somebody_may_see_it(outcome: str, level: str, log: StringIO) -> None:
    ProducerLogs("p1").reply_ambiguous(channel="a", reply_id="r", outcome=outcome)
    assert json.loads(log.getvalue())["level"] == level
