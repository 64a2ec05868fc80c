"""What Prometheus reads."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from sdqueue.messages import DeadTurn
from sdqueue.observe import Observer, Observers
from sdqueue.observe.metrics import MetricsObserver


def settled(observer: Observer, state: str, letter: DeadTurn | None = None) -> None:
    observer.turn_settled(state=state, session_id="s", turn_id="t", seconds=0.2, letter=letter, by=None)


def test_events_become_figures() -> None:
    registry = CollectorRegistry()
    observer = MetricsObserver(registry)
    observer.turn_received(queue="q", anonymous=True)
    observer.turn_received(queue="q", anonymous=False)
    settled(observer, "completed")
    settled(observer, "dead", DeadTurn(reason="poison", error="x"))
    observer.backend_away(backend="store", error="x")
    observer.loop_blocked(seconds=1.5, task="t", stack="")
    observer.running(turns=3, waiting=4)
    observer.partitions_assigned(owned=22, standby=21, members=3)
    observer.queue_released(queue="q", reason="it belongs to another")

    value = registry.get_sample_value
    assert value("sdqueue_turns_received_total") == 2
    assert value("sdqueue_turns_anonymous_total") == 1
    assert value("sdqueue_turns_settled_total", {"state": "completed"}) == 1
    assert value("sdqueue_turns_dead_total", {"reason": "poison"}) == 1
    assert value("sdqueue_turn_seconds_count") == 2
    assert value("sdqueue_backend_away_total", {"backend": "store"}) == 1
    assert value("sdqueue_loop_blocked_seconds_total") == 1.5
    assert value("sdqueue_turns_running") == 3
    assert value("sdqueue_turns_waiting") == 4
    assert value("sdqueue_partitions_owned") == 22
    assert value("sdqueue_partitions_standby") == 21
    assert value("sdqueue_pool_members") == 3
    assert value("sdqueue_queues_released_total") == 1


def test_every_event_is_counted() -> None:
    """An event that is added must be counted, or left out here on purpose."""
    events = {name for name in vars(Observer) if not name.startswith("_")}

    assert events - set(vars(MetricsObserver)) == {"queue_taken", "repartitioned"}


def test_observers_pass_every_event_on() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    settled(Observers(MetricsObserver(first), MetricsObserver(second)), "completed")

    for registry in (first, second):
        assert registry.get_sample_value("sdqueue_turns_settled_total", {"state": "completed"}) == 1


def test_an_observer_that_fails_is_not_hidden() -> None:
    class Broken(Observer):
        def queue_taken(self, *, queue: str) -> None:
            raise RuntimeError(queue)

    with pytest.raises(RuntimeError, match="q1"):
        Observers(Observer(), Broken()).queue_taken(queue="q1")


def test_they_are_served_over_http() -> None:
    registry = CollectorRegistry()
    settled(MetricsObserver(registry), "completed")
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert 'sdqueue_turns_settled_total{state="completed"} 1.0' in text
