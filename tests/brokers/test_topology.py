"""Topology: names, bindings and routing, by the wire contract; and the layout that embedded brokers keep."""

from __future__ import annotations

import pytest

from sdqueue.brokers.layout import Layout
from sdqueue.brokers.topology import Binding, Exchange, Queue, Topology, matches, route
from sdqueue.errors import TopologyMismatch, TopologyMissing
from sdqueue.messages import partition_of, routing_key

TOPOLOGY = Topology()


def layout_of(topology: Topology) -> Layout:
    return Layout(topology.exchanges, topology.queues, topology.bindings)


def test_names_are_those_of_the_wire_contract() -> None:
    assert TOPOLOGY.turns == "sdqueue.turns"
    assert TOPOLOGY.unrouted == "sdqueue.unrouted"
    assert TOPOLOGY.replies == "sdqueue.replies"
    assert TOPOLOGY.dead == "sdqueue.dead"
    assert TOPOLOGY.partition_queue(0) == "sdqueue.turns.0000"
    assert TOPOLOGY.egress_queue("slack") == "sdqueue.replies.slack"
    assert TOPOLOGY.reply_key("slack", "final", "user-42") == "slack.final.0051"


def test_the_replies_exchange_is_declared_last() -> None:
    """That it exists says that everything else does."""
    assert TOPOLOGY.exchanges[-1].name == TOPOLOGY.replies
    assert all(binding.exchange != TOPOLOGY.replies for binding in TOPOLOGY.bindings)


def test_there_is_a_queue_for_each_partition_and_two_more() -> None:
    names = [queue.name for queue in TOPOLOGY.queues]
    assert len(names) == len(set(names)) == 64 + 2
    assert {queue.name for queue in TOPOLOGY.queues if not queue.single_active} == {TOPOLOGY.dead}
    assert {queue.dead_letter for queue in TOPOLOGY.queues if queue.name != TOPOLOGY.dead} == {TOPOLOGY.dead}


@pytest.mark.parametrize(
    ("session_id", "key"),
    [("user-42", "0051"), ("slack:T1:C1:1700000000.000100", "0007"), ("héllo", "0054"), ("a", "0003")],
)
def test_a_session_s_turns_go_to_its_partition(session_id: str, key: str) -> None:
    assert routing_key(partition_of(session_id, 64)) == key
    assert layout_of(TOPOLOGY).targets(TOPOLOGY.turns, key) == [f"sdqueue.turns.{key}"]


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("web.#", "web.final.0001", True),
        ("web.#", "web", True),
        ("web.#", "web2.final.0001", False),
        ("web.*", "web.final.0001", False),
        ("web.*.0001", "web.final.0001", True),
        ("#.0001", "web.final.0001", True),
        ("#", "", True),
        ("*", "a", True),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "a.x.y", False),
    ],
)
def test_topic_patterns_take_what_amqp_says(pattern: str, key: str, taken: bool) -> None:
    assert matches(pattern, key) is taken


@pytest.mark.parametrize("key", ["user-42", "64", "064", "00064", "0064", "", "0000 "])
def test_any_other_key_goes_to_unrouted(key: str) -> None:
    assert layout_of(TOPOLOGY).targets(TOPOLOGY.turns, key) == [TOPOLOGY.unrouted]


def test_a_reply_goes_to_its_channel_once() -> None:
    layout = layout_of(TOPOLOGY)
    queue, binding = TOPOLOGY.egress("web")
    layout.add((), [queue], [binding, Binding(TOPOLOGY.replies, queue.name, "#")])
    assert layout.targets(TOPOLOGY.replies, "web.final.0001") == [queue.name]
    assert layout.targets(TOPOLOGY.replies, "slack.final.0001") == [queue.name]


def test_without_an_alternate_nothing_takes_it() -> None:
    exchanges = {"x": Exchange("x", "direct")}
    assert route("x", "nobody", exchanges, {}) == []
    with pytest.raises(KeyError):
        route("y", "nobody", exchanges, {})


def test_the_default_exchange_routes_by_queue_name() -> None:
    assert layout_of(TOPOLOGY).targets("", "sdqueue.dead") == ["sdqueue.dead"]


def test_a_route_is_not_remembered_past_a_new_binding() -> None:
    layout = layout_of(TOPOLOGY)
    assert layout.targets(TOPOLOGY.replies, "web.final.0001") == []
    queue, binding = TOPOLOGY.egress("web")
    layout.add((), [queue], [binding])
    assert layout.targets(TOPOLOGY.replies, "web.final.0001") == [queue.name]


def test_an_exchange_that_is_not_there_is_named() -> None:
    with pytest.raises(TopologyMissing, match=r"other\.turns"):
        layout_of(TOPOLOGY).targets("other.turns", "0000")


def test_what_is_missing_is_named() -> None:
    layout = Layout(TOPOLOGY.exchanges, TOPOLOGY.queues, TOPOLOGY.bindings[1:])
    with pytest.raises(TopologyMissing, match=r"binding of sdqueue\.dead.*topology apply"):
        layout.check(TOPOLOGY, "here")


def test_other_properties_are_named() -> None:
    layout = layout_of(TOPOLOGY)
    layout.add((), [Queue(TOPOLOGY.unrouted, single_active=False)], ())
    with pytest.raises(TopologyMismatch, match=r"sdqueue\.unrouted.*single_active=False.*single_active=True"):
        layout.check(TOPOLOGY, "here")


def test_both_numbers_of_partitions_are_named() -> None:
    with pytest.raises(TopologyMismatch, match=r"has 64 partitions.*wants 32.*SDQUEUE_PARTITIONS=64"):
        layout_of(TOPOLOGY).check(Topology(partitions=32), "here")


def test_egress_queues_and_other_namespaces_are_no_partitions() -> None:
    layout = layout_of(TOPOLOGY)
    other = Topology("sdqueue.turns", partitions=3)
    layout.add(other.exchanges, other.queues, other.bindings)
    layout.check(TOPOLOGY, "here")
    layout.check(other, "here")
    assert len(layout.queues) == 66 + 5
