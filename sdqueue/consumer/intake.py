"""Intake: what becomes of a delivery when it arrives."""

from __future__ import annotations

from sdqueue.brokers import Broker, Delivery
from sdqueue.channels import DoubleTexting
from sdqueue.consumer.failure import Refused
from sdqueue.consumer.mailbox import Mailbox, Mailboxes
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.work import Work
from sdqueue.observe import Observer


class Intake:
    """Reads deliveries and puts them into mailboxes, and lets those act that act on arrival.

    Parameters:
        broker: has the partitions.
        mailboxes: where the work goes.
        options: how to work.
        observer: told of each delivery.
    """

    def __init__(self, broker: Broker, mailboxes: Mailboxes, options: ConsumerOptions, observer: Observer) -> None:
        self._broker = broker
        self._mailboxes = mailboxes
        self._options = options
        self._observer = observer
        self.last: dict[str, float] = {}
        """When each queue has last delivered something, by the monotonic clock."""

    def take(self, delivery: Delivery) -> None:
        """Take a delivery in."""
        work = Work.read(delivery, max_text_bytes=self._options.max_text_bytes)
        self.last[delivery.queue] = work.arrived
        self._observer.turn_received(queue=delivery.queue, anonymous=work.anonymous)
        turn = work.turn
        if turn is not None:
            work.unsorted = bool(work.replay) or not self._is_here(work)
            box = self._mailboxes.find(work)
            if box is not None and turn.kind == "cancel":
                if box.running is not None and box.running.is_message:
                    box.running.stop(work.turn_id)
            elif box is not None and self._is_rejected(work, box):
                work.refuse(Refused("busy", "another turn of its session is running, and its channel rejects then"))
        self._mailboxes.put(work)

    def _is_here(self, work: Work) -> bool:
        return work.delivery.queue == self._broker.topology.queue_of(work.session_id)

    def _is_rejected(self, work: Work, box: Mailbox) -> bool:
        assert work.turn is not None
        if work.unsorted or not work.is_message:
            return False
        if self._options.double_texting.of(work.turn.channel) is not DoubleTexting.REJECT:
            return False
        there = [other for other in (box.running, *box.waiting) if other is not None and other.is_message]
        # Its own repeat is not kept off by a turn, but waits, to be answered as the turn was.
        return bool(there) and all(other.turn_id != work.turn_id for other in there)


def interrupt(options: ConsumerOptions, box: Mailbox, work: Work) -> None:
    """Let a turn that joins a mailbox stop those before it, where its channel wants that."""
    if work.turn is None or not work.is_message or work.unsorted:
        return  # what is put back from the dead letters is not newer than what runs
    if options.double_texting.of(work.turn.channel) is not DoubleTexting.INTERRUPT:
        return
    for other in (box.running, *box.waiting):
        if other is not None and other.is_message and other.turn_id != work.turn_id and not other.unsorted:
            other.stop(work.turn_id, "interrupted")
