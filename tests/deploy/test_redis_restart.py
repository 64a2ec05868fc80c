"""Redis with the users of deploy/security after a restart: it reads its log with the rights of the user `default`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdqueue import RedisLockBackend, RedisSessionStore, SessionWorker
from sdqueue.agents import MemoAgent
from tests.conftest import system_of
from tests.deploy.secured import Secured
from tests.servers.kinds import RABBITMQ, REDIS

pytestmark = pytest.mark.redis


async def test_what_a_script_has_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """Nobody can log in as ``default``, but without its rights Redis drops every script's writes while it starts."""
    secured = Secured(tmp_path / "secured", system_of(RABBITMQ), system_of(REDIS))
    try:
        await secured.redis.start()
        assert await _turn(secured, "hello") == "Message 1 of this session: hello"
        await secured.redis.kill()
        await secured.redis.start()
        assert await _turn(secured, "again") == "Message 2 of this session: again"
    finally:
        secured.close()


async def _turn(secured: Secured, text: str) -> str:
    url = secured.url("consumer", "store")
    store, locks = RedisSessionStore(url=url), RedisLockBackend(url=url)
    worker = SessionWorker(agent_factory=MemoAgent, store=store, lock_backend=locks)
    try:
        async with worker.acquire("ada") as handle:
            return (await handle.turn(text)).text
    finally:
        await store.aclose()
        await locks.aclose()
