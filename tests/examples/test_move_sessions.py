"""``examples/move_sessions.py``: what a session remembers goes on in another store."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from sdqueue import Client
from sdqueue.sessions.sealing.keyring import generate
from tests.examples.served import EXAMPLES, consumer


def environment(tmp_path: Path, store: str, **more: str) -> dict[str, str]:
    broker = f"sqlite:///{tmp_path}/broker.db"
    return {"SDQUEUE_BROKER_URL": broker, "SDQUEUE_STORE_URL": store, "SDQUEUE_PARTITIONS": "4", **more}


async def move(source: str, target: str, env: dict[str, str], *more: str) -> tuple[int, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")} | env
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "move_sessions.py", source, target, "--broker", env["SDQUEUE_BROKER_URL"], *more,
        env=clean, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(40):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode().strip()


async def say(env: dict[str, str], text: str, *, turn_id: str) -> str:
    async with (
        consumer("--agent", "bot:answer", env=env),
        Client.from_settings(
            broker_url=env["SDQUEUE_BROKER_URL"], partitions=4, namespace=env.get("SDQUEUE_NAMESPACE")
        ) as client,
    ):
        return (await client.ask("u", text, id=turn_id)).text


async def moves(tmp_path: Path, target: str, **more: str) -> None:
    source = f"sqlite:///{tmp_path}/sessions.db"
    before, after = environment(tmp_path, source, **more), environment(tmp_path, target, **more)
    assert await say(before, "hello", turn_id="one") == "You said 'hello'."
    assert await move(source, target, before) == (0, "1 sessions copied, 0 were there")
    assert await say(after, "again", turn_id="two") == "You said 'again'. Before that you said 'hello'."
    assert await say(after, "hello", turn_id="one") == "You said 'hello'."  # a repeat, answered from memory
    assert await move(source, target, before) == (0, "0 sessions copied, 1 were there")
    assert await say(after, "more", turn_id="three") == "You said 'more'. Before that you said 'again'."


async def test_sessions_go_on_in_another_store(tmp_path: Path) -> None:
    await moves(tmp_path, f"file://{tmp_path}/files")


@pytest.mark.redis
async def test_sessions_go_on_in_redis(tmp_path: Path, redis_url: str) -> None:
    await moves(tmp_path, redis_url, SDQUEUE_NAMESPACE=f"moved-{os.getpid()}")


async def test_sealed_sessions_are_sealed_there_too(tmp_path: Path) -> None:
    await moves(tmp_path, f"file://{tmp_path}/files", SDQUEUE_ENCRYPTION_KEYS=generate("k1"))
    assert not [file for file in (tmp_path / "files").rglob("*") if file.is_file() and b"hello" in file.read_bytes()]


async def test_nothing_is_copied_while_turns_wait(tmp_path: Path) -> None:
    source, target = f"sqlite:///{tmp_path}/sessions.db", f"file://{tmp_path}/files"
    env = environment(tmp_path, source)
    await say(env, "hello", turn_id="one")
    async with Client.from_settings(broker_url=env["SDQUEUE_BROKER_URL"], partitions=4) as client:
        await client.send("u", "nobody hears")
    code, said = await move(source, target, env)
    assert code == 1
    assert "sdqueue.turns.000" in said
    assert not (tmp_path / "files").exists() or not list((tmp_path / "files").rglob("*.json"))
    await say(env, "now", turn_id="two")
    assert await move(source, target, env, "--check") == (0, "nothing waits")
