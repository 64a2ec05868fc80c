"""RabbitMQ and Redis in containers on a network of their own, for containers of sdqueue."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.conftest import refuse
from tests.deploy.engine import Engine
from tests.servers.kinds import RABBITMQ, REDIS, Kind
from tests.servers.process import Unavailable

IMAGES: Final = {RABBITMQ: ("rabbitmq:4-management",), REDIS: ("redis:8", "valkey/valkey:8")}
"""What is taken where the environment names none: the first that the engine has, or else can pull."""


@dataclass(frozen=True)
class Servers:
    """They run.

    Parameters:
        network: the name of their network; in it they are ``rabbitmq`` and ``redis``.
        broker_url: the address of RabbitMQ for this machine.
        environment: options of ``docker run`` with their addresses for a container in the network.
    """

    network: str
    broker_url: str
    environment: tuple[str, ...] = (
        "--env=SDQUEUE_BROKER_URL=amqp://guest:guest@rabbitmq:5672/",
        "--env=SDQUEUE_STORE_URL=redis://redis:6379/0",
    )


def image_of(engine: Engine, kind: Kind) -> str:
    """The image of a kind of server that the tests use; a test that cannot have it is refused."""
    from tests.servers.containers import ensure_image  # slow to import, and not always needed

    image = os.environ.get(kind.image_variable)
    if not image:
        image = next((image for image in IMAGES[kind] if engine.has(image)), IMAGES[kind][0])
    try:
        ensure_image(image)
    except Unavailable as why:
        refuse(f"no {kind.name}: {why}", os.environ)
    return image


@contextmanager
def servers(engine: Engine) -> Iterator[Servers]:
    """Run both; they may still be starting, which consumers and clients wait for."""
    rabbitmq, redis = image_of(engine, RABBITMQ), image_of(engine, REDIS)
    with engine.network() as network:
        options = [f"--network={network}"]
        publish = "--publish=127.0.0.1::5672"
        with (
            engine.container(rabbitmq, options=[*options, publish, "--network-alias=rabbitmq"]) as broker,
            engine.container(redis, options=[*options, "--network-alias=redis"]),
        ):
            yield Servers(network, f"amqp://guest:guest@127.0.0.1:{broker.port(5672)}/")
