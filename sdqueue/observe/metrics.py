"""Metrics: the events as Prometheus counters, gauges and histograms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sdqueue.messages import DeadTurn
from sdqueue.observe.observer import Observer


class MetricsObserver(Observer):
    """Counts the events.

    Parameters:
        registry: where the metrics are registered; one a process and consumer.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._received = Counter("sdqueue_turns_received_total", "Deliveries read.", registry=registry)
        self._anonymous = Counter(
            "sdqueue_turns_anonymous_total",
            "Deliveries without an id, not covered by the duplicate guarantee.",
            registry=registry,
        )
        self._settled = Counter(
            "sdqueue_turns_settled_total", "Deliveries by final state.", ["state"], registry=registry
        )
        self._dead = Counter("sdqueue_turns_dead_total", "Dead turns by reason.", ["reason"], registry=registry)
        self._seconds = Histogram(
            "sdqueue_turn_seconds", "From the arrival of a delivery to its final state.", registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
        )  # fmt: skip
        self._retried = Counter("sdqueue_turn_retries_total", "Attempts repeated.", registry=registry)
        self._suspected = Counter("sdqueue_turns_suspected_total", "Turns run alone in a process.", registry=registry)
        self._stuck = Counter(
            "sdqueue_agents_stuck_total", "Agents that ignored their cancellation.", registry=registry
        )
        self._unshortened = Counter(
            "sdqueue_histories_unshortened_total",
            "Turns whose conversation has outgrown its limits and could not be shortened.",
            registry=registry,
        )
        self._lost = Counter("sdqueue_queues_lost_total", "Subscriptions lost or not had.", registry=registry)
        self._released = Counter(
            "sdqueue_queues_released_total", "Subscriptions left to another consumer.", registry=registry
        )
        self._away = Counter("sdqueue_backend_away_total", "Refusals of a backend.", ["backend"], registry=registry)
        self._blocked = Counter(
            "sdqueue_loop_blocked_seconds_total", "Time in which the event loop did not move.", registry=registry
        )
        self._stalled = Counter(
            "sdqueue_stalls_total", "Deliveries and queues that do not move.", ["what"], registry=registry
        )
        self._oldest = Gauge(
            "sdqueue_oldest_delivery_seconds", "Age of the oldest unacknowledged delivery.", registry=registry
        )
        self._internal = Counter("sdqueue_internal_errors_total", "Defects of sdqueue itself.", registry=registry)
        self._owned = Gauge("sdqueue_partitions_owned", "Partitions that this consumer owns.", registry=registry)
        self._standby = Gauge(
            "sdqueue_partitions_standby", "Partitions that this consumer stands by for.", registry=registry
        )
        self._members = Gauge("sdqueue_pool_members", "Consumers that share the partitions.", registry=registry)
        self._running = Gauge("sdqueue_turns_running", "Turns running now.", registry=registry)
        self._waiting = Gauge("sdqueue_turns_waiting", "Turns waiting in mailboxes now.", registry=registry)

    def turn_received(self, *, queue: str, anonymous: bool) -> None:
        """Count it."""
        self._received.inc()
        if anonymous:
            self._anonymous.inc()

    def turn_settled(
        self, *, state: str, session_id: str, turn_id: str, seconds: float, letter: DeadTurn | None, by: str | None
    ) -> None:
        """Count it by state."""
        self._settled.labels(state).inc()
        self._seconds.observe(seconds)
        if letter is not None:
            self._dead.labels(letter.reason).inc()

    def turn_retried(self, *, session_id: str, turn_id: str, attempt: int, delay_s: float, error: str) -> None:
        """Count it."""
        self._retried.inc()

    def turn_suspected(self, *, session_id: str, turn_id: str, begun: int) -> None:
        """Count it."""
        self._suspected.inc()

    def agent_stuck(self, *, session_id: str, turn_id: str) -> None:
        """Count it."""
        self._stuck.inc()

    def history_unshortened(self, *, session_id: str, turn_id: str, error: str) -> None:
        """Count it."""
        self._unshortened.inc()

    def queue_lost(self, *, queue: str, reason: str) -> None:
        """Count it."""
        self._lost.inc()

    def queue_released(self, *, queue: str, reason: str) -> None:
        """Count it."""
        self._released.inc()

    def partitions_assigned(self, *, owned: int, standby: int, members: int) -> None:
        """Show them."""
        self._owned.set(owned)
        self._standby.set(standby)
        self._members.set(members)

    def backend_away(self, *, backend: str, error: str) -> None:
        """Count it by backend."""
        self._away.labels(backend).inc()

    def loop_blocked(self, *, seconds: float, task: str, stack: str) -> None:
        """Add the seconds."""
        self._blocked.inc(seconds)

    def delivery_stalled(self, *, queue: str, session_id: str, turn_id: str, seconds: float, held_by: str) -> None:
        """Count it."""
        self._stalled.labels("delivery").inc()

    def oldest_delivery(self, *, seconds: float) -> None:
        """Show it."""
        self._oldest.set(seconds)

    def queue_stalled(self, *, queue: str, depth: int, seconds: float, lost: bool) -> None:
        """Count it."""
        self._stalled.labels("queue").inc()

    def internal_error(self, *, session_id: str, turn_id: str, error: str, trace: str) -> None:
        """Count it."""
        self._internal.inc()

    def running(self, *, turns: int, waiting: int) -> None:
        """Show both."""
        self._running.set(turns)
        self._waiting.set(waiting)
