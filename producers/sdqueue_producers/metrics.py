"""ProducerMetrics: the events as Prometheus counters and histograms."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from sdqueue_producers.observer import ProducerObserver

_PREFIX: Final = "sdqueue_producer"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ProducerMetrics(ProducerObserver):
    """Counts the events, each by channel.

    Parameters:
        registry: where the metrics are registered; one a process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}_total", text, ["channel", *labels], registry=registry)

        def time(name: str, text: str) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}_seconds", text, ["channel"], registry=registry, buckets=_SECONDS)

        self._requests = count("requests", "Requests answered.", "status", "reason")
        self._request_s = time("request", "From a request's arrival to its answer.")
        self._published = count("turns_published", "Turns that the broker has for good.")
        self._repeated_turns = count("turns_repeated", "Turns that were known and not published again.")
        self._unconfirmed = count("turns_unconfirmed", "Turns that the platform was told to send again.")
        self._listeners = count("listener_failures", "Sockets and long polling begun again after an error.")
        self._typing = count("typing_failures", "Typing indicators that could not be shown.")
        self._lost = count("queues_lost", "Times that a queue of replies was lost.")
        self._delivered = count("replies_delivered", "Replies that are visible.")
        self._delivery_s = time("delivery", "From a reply's arrival to its being visible.")
        self._repeated_replies = count("replies_repeated", "Replies that had been delivered before.")
        self._retried = count("replies_retried", "Deliveries that failed passingly.")
        self._ambiguous = count("replies_ambiguous", "Deliveries with an unknown outcome.", "outcome")
        self._dead = count("replies_dead", "Replies that became dead letters.", "reason")
        self._defects = count("channel_defects", "Defects of channels.")
        self._away = Counter(f"{_PREFIX}_backend_away_total", "Refusals of a backend.", ["backend"], registry=registry)

    def request_answered(self, *, channel: str, status: int, reason: str, seconds: float) -> None:
        """Count it by status and reason."""
        self._requests.labels(channel, str(status), reason).inc()
        self._request_s.labels(channel).observe(seconds)

    def turn_published(self, *, channel: str, session_id: str, turn_id: str) -> None:
        """Count it."""
        self._published.labels(channel).inc()

    def turn_repeated(self, *, channel: str, turn_id: str) -> None:
        """Count it."""
        self._repeated_turns.labels(channel).inc()

    def turn_unconfirmed(self, *, channel: str, turn_id: str, error: str) -> None:
        """Count it."""
        self._unconfirmed.labels(channel).inc()

    def listener_failed(self, *, channel: str, error: str, again_in_s: float) -> None:
        """Count it."""
        self._listeners.labels(channel).inc()

    def typing_failed(self, *, channel: str, error: str) -> None:
        """Count it."""
        self._typing.labels(channel).inc()

    def queue_lost(self, *, channel: str, reason: str) -> None:
        """Count it."""
        self._lost.labels(channel).inc()

    def reply_delivered(self, *, channel: str, session_id: str, reply_id: str, seconds: float) -> None:
        """Count it, and how long it took."""
        self._delivered.labels(channel).inc()
        self._delivery_s.labels(channel).observe(seconds)

    def reply_repeated(self, *, channel: str, reply_id: str) -> None:
        """Count it."""
        self._repeated_replies.labels(channel).inc()

    def reply_retried(self, *, channel: str, reply_id: str, attempts: int, wait_s: float, error: str) -> None:
        """Count it."""
        self._retried.labels(channel).inc()

    def reply_ambiguous(self, *, channel: str, reply_id: str, outcome: str) -> None:
        """Count it by outcome."""
        self._ambiguous.labels(channel, outcome).inc()

    def reply_dead(self, *, channel: str, reply_id: str, reason: str, error: str) -> None:
        """Count it by reason."""
        self._dead.labels(channel, reason).inc()

    def channel_defect(self, *, channel: str, error: str, trace: str) -> None:
        """Count it."""
        self._defects.labels(channel).inc()

    def backend_away(self, *, backend: str, error: str) -> None:
        """Count it by backend."""
        self._away.labels(backend).inc()
