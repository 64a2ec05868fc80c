"""Where installations are kept: what every such place does, and what each does besides."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sdqueue_producers import MemoryState
from sdqueue_producers.slack.installations import (
    EnvironmentInstallation,
    FileInstallations,
    Installation,
    Installations,
    StateInstallations,
    open_installations,
)
from sdqueue_producers.state import opened_state

from sdqueue.errors import ConfigurationError, StoreUnavailable
from sdqueue.settings import Settings

ONE = Installation("T1", "xoxb-secret-1", "UBOT1", ("chat:write", "commands"), installed_at=1000.0)
ORGANISATION = Installation("E1", "xoxb-secret-2", "UBOT2", installed_at=1000.0)


@pytest.fixture(params=["file", "state"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Installations]:
    """Opens the same place again, as another process does."""
    state = MemoryState()
    url = "state://" if request.param == "state" else f"file://{tmp_path}/slack%20tokens.json"
    return lambda: open_installations(url, bot_token="", state=state)


async def test_what_is_kept_is_found_by_others(reopen: Callable[[], Installations]) -> None:
    await reopen().save(ONE)
    await reopen().save(ORGANISATION)
    assert await reopen().find("T1") == ONE
    assert await reopen().find("E1") == ORGANISATION
    assert await reopen().find("T2") is None


async def test_a_new_installation_takes_the_place_of_the_old(reopen: Callable[[], Installations]) -> None:
    await reopen().save(ONE)
    new = Installation("T1", "xoxb-new", installed_at=2000.0)
    await reopen().save(new)
    assert await reopen().find("T1") == new


async def test_one_that_is_forgotten_is_gone_and_others_stay(reopen: Callable[[], Installations]) -> None:
    await reopen().save(ONE)
    await reopen().save(ORGANISATION)
    assert await reopen().delete("T1", until=1000.0)
    assert not await reopen().delete("T1", until=1000.0)
    assert not await reopen().delete("T9", until=1000.0)
    assert await reopen().find("T1") is None
    assert await reopen().find("E1") == ORGANISATION


async def test_one_that_was_made_later_is_not_forgotten(reopen: Callable[[], Installations]) -> None:
    await reopen().save(ONE)
    assert not await reopen().delete("T1", until=999.0)
    assert await reopen().find("T1") == ONE


async def test_many_at_once_all_are_kept(reopen: Callable[[], Installations]) -> None:
    place = reopen()
    await asyncio.gather(*(place.save(Installation(f"T{n}", f"xoxb-{n}")) for n in range(20)))
    assert [(await reopen().find(f"T{n}")) for n in range(20)] == [
        Installation(f"T{n}", f"xoxb-{n}") for n in range(20)
    ]


def test_a_token_is_not_shown() -> None:
    assert "xoxb" not in repr(ONE)


async def test_the_environment_has_one_token_for_all() -> None:
    place = open_installations("env://", bot_token="xoxb-env", state=MemoryState())
    assert isinstance(place, EnvironmentInstallation)
    assert (await place.find("T1")).bot_token == (await place.find("E5")).bot_token == "xoxb-env"
    assert not await place.delete("T1", until=2e9)
    assert (await place.find("T1")).bot_token == "xoxb-env"
    with pytest.raises(ConfigurationError, match="state://"):
        await place.save(ONE)


def test_the_environment_needs_a_token() -> None:
    with pytest.raises(ConfigurationError, match="SDQUEUE_SLACK_BOT_TOKEN"):
        open_installations("env://", bot_token="", state=MemoryState())


@pytest.mark.parametrize("url", ["", "redis://host", "file://relative.json", "file:///", "file://host/path", "/path"])
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SDQUEUE_SLACK_INSTALLATIONS"):
        open_installations(url, bot_token="x", state=MemoryState())


# The file


async def test_the_file_is_its_owners_alone_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    old = os.umask(0)
    try:
        place = FileInstallations(path)
        await place.save(ONE)
        assert path.stat().st_mode & 0o777 == 0o600
        first = path.stat().st_ino
        await place.save(ORGANISATION)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino != first
    assert sorted(json.loads(path.read_text())) == ["E1", "T1"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokens.json", "tokens.json.lock"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"T1": 5}', '{"T1": {"token": "xoxb-secret"}}', '{"T1": {"id": "xoxb-s"']
)
async def test_a_file_that_cannot_be_read_is_an_error_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    with pytest.raises(StoreUnavailable, match=r"tokens\.json") as error:
        await FileInstallations(path).find("T1")
    assert "xoxb" not in str(error.value)
    with pytest.raises(StoreUnavailable):
        await FileInstallations(path).save(ONE)
    assert path.read_text() == text


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    place = FileInstallations(tmp_path / "none" / "tokens.json")
    assert await place.find("T1") is None
    with pytest.raises(StoreUnavailable, match="folder"):
        await place.save(ONE)


def _save(path: Path, first: int) -> None:
    for n in range(first, first + 10):
        asyncio.run(FileInstallations(path).save(Installation(f"T{n}", f"xoxb-{n}")))


async def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_save, args=(path, first)) for first in (0, 10)]
    for process in others:
        process.start()
    for process in others:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in others] == [0, 0]
    assert sorted(json.loads(path.read_text())) == sorted(f"T{n}" for n in range(20))


async def test_the_state_keeps_them_for_good() -> None:
    now = 0.0
    state = MemoryState(clock=lambda: now)
    await StateInstallations(state).save(ONE)
    now = 1e9
    assert await StateInstallations(state).find("T1") == ONE


async def test_redis_keeps_them_for_all_producers(redis_url: str, namespace: str) -> None:
    settings = Settings.load(broker_url="memory://", store_url=redis_url, namespace=namespace)
    async with opened_state(settings) as state, opened_state(settings) as other:
        await StateInstallations(state).save(ONE)
        assert await StateInstallations(other).find("T1") == ONE
        assert not await StateInstallations(other).delete("T1", until=999.0)
        assert await StateInstallations(other).delete("T1", until=1000.0)
        assert await StateInstallations(state).find("T1") is None
