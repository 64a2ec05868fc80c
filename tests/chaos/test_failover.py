"""A pool under load on servers that are several: a node of RabbitMQ's cluster is killed, a primary of Redis fails over.

A replica that is promoted may lack the last writes before the kill, which Redis had confirmed: of those sessions the
last effect may be gone, which is not promised otherwise. All else is asserted: every turn is answered, in order, and
none runs twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.producer import quiet
from tests.chaos.scenarios import ALL
from tests.chaos.servers import Servers
from tests.chaos.stage import Stage
from tests.servers.cluster import RabbitMQCluster
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis
from tests.servers.redis_group import RedisGroup

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


async def played(name: str, servers: Servers, folder: Path) -> tuple[Evidence, Stage]:
    quiet()
    scenario = ALL[name]
    scenario = replace(scenario, load=replace(scenario.load, seconds=12))
    assert scenario.cannot_run(servers) is None
    stage = Stage(scenario, servers, folder / "stage", seed=1)
    evidence = await stage.play()
    assert not stage.pool.defects()
    assert stage.done, "nothing was done to the servers"
    assert len(evidence.sent) > 100
    return evidence, stage


def without_what_the_replica_lacked(evidence: Evidence, failed_over_at: float) -> Evidence:
    """As if the turns had never been sent whose effects are gone, and may be: their runs began before the failover."""
    began_at = {run.id: run.began_at for run in evidence.runs}
    stored = {effect.mark for effects in evidence.conversations.values() for effect in effects}
    gone = {
        reply.mark
        for reply in evidence.replies
        if reply.kind == "final" and reply.mark not in stored and began_at[reply.run] < failed_over_at
    }
    return replace(
        evidence,
        sent=tuple(sent for sent in evidence.sent if sent.mark not in gone),
        replies=tuple(reply for reply in evidence.replies if reply.mark not in gone),
    )


@pytest.mark.cluster
async def test_a_killed_node_of_the_broker_breaks_no_promise(
    rabbitmq_cluster: Callable[..., Awaitable[RabbitMQCluster]],
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    tmp_path: Path,
) -> None:
    cluster, redis = await rabbitmq_cluster(), await private_redis()
    servers = Servers(cluster.url, redis.url, tuple(cluster.nodes), redis, cluster=cluster)
    evidence, _ = await played("node_killed", servers, tmp_path)
    findings = check(evidence)
    assert findings.clean, "\n".join(findings.details)


async def test_a_failover_of_the_store_loses_and_reorders_no_turn(
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]], redis_group: RedisGroup, tmp_path: Path
) -> None:
    rabbitmq, sentinel = await private_rabbitmq(), await redis_group.sentinel()
    servers = Servers(rabbitmq.url, sentinel.url, (rabbitmq,), group=redis_group, sentinel=sentinel)
    evidence, stage = await played("failover", servers, tmp_path)
    assert stage.failed_over_at is not None
    findings = check(without_what_the_replica_lacked(evidence, stage.failed_over_at))
    assert findings.clean, "\n".join(findings.details)
