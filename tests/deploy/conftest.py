"""Fixtures of the tests of deployments."""

from __future__ import annotations

import os

import pytest

from tests.conftest import refuse
from tests.deploy.engine import Engine
from tests.servers.process import Unavailable


@pytest.fixture(scope="session")
def engine() -> Engine:
    """A Docker engine; without one, tests are skipped, and fail in CI."""
    try:
        return Engine()
    except Unavailable as why:
        refuse(f"no Docker: {why}", os.environ)


@pytest.fixture(scope="session")
def sdqueue_image(engine: Engine) -> str:
    """The name of sdqueue's image, built once in a run; give tests that use it a timeout of minutes."""
    try:
        return engine.image()
    except Unavailable as why:
        refuse(f"no image of sdqueue: {why}", os.environ)
