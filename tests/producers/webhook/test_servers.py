"""The same on RabbitMQ and Redis."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sdqueue_producers.state import RedisState

from sdqueue.backends import open_broker
from sdqueue.settings import Settings
from tests.producers.webhook.house import house
from tests.producers.webhook.tools import OTHER_SECRET, SECRET, Receiver, make_authority, serving


async def loopback(host: str, port: int, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, str]]:
    return [(socket.AF_INET, "127.0.0.1")]


async def test_held_and_called_back_on_rabbitmq_and_redis(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdqueue_producers.webhook.channel.HOLDER_S", 30.0)
    authority = make_authority(tmp_path, "receiver.test")
    settings = Settings(broker_url=amqp_url, namespace=namespace, partitions=4)
    state = RedisState(redis_url, namespace=namespace)
    async with serving(Receiver(), authority.tls) as receiver, open_broker(settings, name="test") as broker:
        await broker.apply()
        crm = {
            "secrets": [SECRET],
            "callback_url": f"https://receiver.test:{receiver.port}/",
            "callback_secrets": [OTHER_SECRET],
            "callback_ca_file": str(authority.ca_file),
            "allow_networks": ["127.0.0.0/8"],
        }
        async with house(broker=broker, state=state, endpoints={"crm": crm}, lookup=loopback) as h:
            held = await h.post(id_="evt_1", prefer="wait=20")
            assert held.status_code == 200
            assert (await h.post(id_="evt_2")).status_code == 202
            reply = await h.ended(id_="evt_2")
            while not receiver.got:
                receiver.arrived.clear()
                await receiver.arrived.wait()
            assert [got.verified() for got in receiver.got] == [reply.json()]
            assert (await h.ended(id_="evt_1")).json() == held.json()
            assert len(h.brain.turns) == 2
    await state.aclose()
