"""Profile: what may go wrong in a world, and how often; each seed has its own."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sdqueue.channels import DoubleTexting


@dataclass(frozen=True)
class Profile:
    """The size of a world and its troubles.

    Most seeds have only some kinds of trouble: faults hide each other, and a world in which everything fails at once
    tests little but retrying.

    Parameters:
        processes, partitions, sessions: how many.
        turns: in each session.
        lasts_s: virtual seconds over which turns are sent and troubles happen.
        prefetch, concurrency, max_sessions, grace_s: options of the consumers and their workers.
        slow: share of calls that take time, on average ``latency_s`` each way.
        refused, unanswered, late: shares of calls that fail without an effect, fail although they had one, and fail
            although they will have one some time after.
        fatal, freezing: shares of calls at which the process is killed or stopped.
        defective: share of publishes that raise what no broker should.
        kills, freezes, cuts, stops, outages: how many happen at any time, whatever is being done then.
        repeated: share of turns that are sent again under the same id.
        malformed, unrouted: share of turns that are no turns; share of sessions whose producer cannot hash.
        dead, poisonous, flaky, long, streamed, control: shares of turns whose agent fails for good, kills its process,
            fails passingly, takes seconds, streams; and of those that are no message.
        pooled: whether the consumers know each other and share the partitions.
        mailbox_size, backlog_size: turns of a session that wait in memory and in the store.
        double_texting: what becomes of a turn that arrives while another one of its session runs.
        parks: whether a dead turn keeps those behind it waiting.
        desks: how often somebody looks through the dead letters while there is trouble.
    """

    processes: int = 2
    partitions: int = 2
    sessions: int = 2
    turns: int = 5
    lasts_s: float = 20.0
    prefetch: int = 200
    concurrency: int = 512
    max_sessions: int = 1000
    grace_s: float = 5.0
    slow: float = 0.2
    latency_s: float = 0.01
    refused: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    fatal: float = 0.0
    freezing: float = 0.0
    defective: float = 0.0
    kills: int = 0
    freezes: int = 0
    cuts: int = 0
    stops: int = 0
    outages: int = 0
    repeated: float = 0.0
    malformed: float = 0.0
    unrouted: float = 0.0
    dead: float = 0.0
    poisonous: float = 0.0
    flaky: float = 0.0
    long: float = 0.2
    streamed: float = 0.0
    control: float = 0.0
    pooled: bool = False
    mailbox_size: int = 64
    backlog_size: int = 10_000
    double_texting: DoubleTexting = DoubleTexting.ENQUEUE
    parks: bool = False
    desks: int = 0

    @classmethod
    def of(cls, seed: int) -> Profile:
        """The one of this seed."""
        chance = random.Random(f"{seed} profile")

        def sometimes(most: float, likelihood: float = 0.4) -> float:
            return chance.uniform(0, most) if chance.random() < likelihood else 0.0

        def several(most: int, likelihood: float = 0.4) -> int:
            return chance.randint(1, most) if chance.random() < likelihood else 0

        return cls(
            processes=chance.randint(2, 4),
            partitions=chance.randint(1, 3),
            sessions=chance.randint(1, 4),
            turns=chance.randint(2, 8),
            lasts_s=chance.choice([2.0, 8.0, 20.0]),
            prefetch=chance.choice([1, 2, 5, 200]),
            concurrency=chance.choice([1, 2, 512]),
            max_sessions=chance.choice([0, 1, 1000]),
            grace_s=chance.choice([0.0, 0.5, 5.0]),
            slow=chance.choice([0.0, 0.2, 0.8]),
            latency_s=chance.choice([0.001, 0.05, 0.5]),
            refused=sometimes(0.15),
            unanswered=sometimes(0.15),
            late=sometimes(0.1),
            fatal=sometimes(0.03),
            freezing=sometimes(0.08),
            defective=sometimes(0.1, 0.3),
            kills=several(4),
            freezes=several(5, 0.5),
            cuts=several(5),
            stops=several(3),
            outages=several(2, 0.3),
            repeated=sometimes(0.4),
            malformed=sometimes(0.2, 0.2),
            unrouted=sometimes(0.5, 0.2),
            dead=sometimes(0.3, 0.3),
            poisonous=sometimes(0.2, 0.2),
            flaky=sometimes(0.4),
            long=sometimes(0.6, 0.6),
            streamed=sometimes(0.6, 0.2),
            control=sometimes(0.3, 0.3),
            pooled=chance.random() < 0.5,
            mailbox_size=chance.choice([1, 2, 64]),
            backlog_size=chance.choice([2, 10_000, 10_000]),
            double_texting=chance.choice([*DoubleTexting, DoubleTexting.ENQUEUE, DoubleTexting.ENQUEUE]),
            parks=chance.random() < 0.3,
            desks=several(3, 0.3),
        )
