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

from tests.chaos.checker import Findings, check
from tests.chaos.producer import quiet
from tests.chaos.scenarios import ALL
from tests.chaos.servers import Servers
from tests.chaos.stage import Stage
from tests.servers.cluster import RabbitMQCluster
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.redis import PrivateRedis
from tests.servers.redis_group import RedisGroup

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


async def played(name: str, servers: Servers, folder: Path) -> Findings:
    quiet()
    scenario = ALL[name]
    scenario = replace(scenario, load=replace(scenario.load, seconds=12))
    assert scenario.cannot_run(servers) is None
    stage = Stage(scenario, servers, folder / "stage", seed=1)
    evidence = await stage.play()
    findings = check(evidence)
    assert not stage.pool.defects()
    assert stage.done, "nothing was done to the servers"
    assert findings.sent > 100
    return findings


@pytest.mark.cluster
async def test_a_killed_node_of_the_broker_breaks_no_promise(
    rabbitmq_cluster: Callable[..., Awaitable[RabbitMQCluster]],
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    tmp_path: Path,
) -> None:
    cluster, redis = await rabbitmq_cluster(), await private_redis()
    servers = Servers(cluster.url, redis.url, tuple(cluster.nodes), redis, cluster=cluster)
    findings = await played("node_killed", servers, tmp_path)
    assert findings.clean, "\n".join(findings.details)


async def test_a_failover_of_the_store_loses_and_reorders_no_turn(
    private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]], redis_group: RedisGroup, tmp_path: Path
) -> None:
    rabbitmq, sentinel = await private_rabbitmq(), await redis_group.sentinel()
    servers = Servers(rabbitmq.url, sentinel.url, (rabbitmq,), group=redis_group, sentinel=sentinel)
    findings = await played("failover", servers, tmp_path)
    broken = [detail for detail in findings.details if "its effect is not stored" not in detail]
    assert not broken, "\n".join(findings.details)
