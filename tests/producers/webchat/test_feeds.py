"""Feeds: the same on all backends, and between two objects on one place, as two processes have them."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest
from sdqueue_producers.webchat.feed import (
    LARGEST_READ,
    Draft,
    Feed,
    FeedLimits,
    MemoryFeed,
    Mode,
    Page,
    Place,
    RedisFeed,
    SQLiteFeed,
    open_feed,
)

from sdqueue.errors import ConfigurationError, StoreUnavailable
from sdqueue.settings import Settings
from tests.producers.webchat.conftest import MakeFeed
from tests.servers.redis import PrivateRedis

SESSION = "webchat:main:ann"


async def bodies(feed: Feed, after: Place | None = None) -> list[str]:
    return [entry.body for entry in (await feed.read(SESSION, after)).entries]


async def test_entries_come_in_order_and_after_a_place(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        for n in range(5):
            assert await feed.add(SESSION, Draft(f"s{n}", f"text {n} é\u2028"))
        page = await feed.read(SESSION, None)
        assert [entry.body for entry in page.entries] == [f"text {n} é\u2028" for n in range(5)]
        assert all(a.place < b.place for a, b in pairwise(page.entries))
        assert not page.reset
        assert await bodies(feed, page.entries[2].place) == ["text 3 é\u2028", "text 4 é\u2028"]
        assert await bodies(feed, page.entries[4].place) == []
        assert (await feed.read("webchat:main:bob", None)).entries in ((), [])


async def test_a_slot_that_is_done_takes_nothing_more(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        assert await feed.add(SESSION, Draft("a", "first"))
        assert not await feed.add(SESSION, Draft("a", "again"))
        assert not await feed.add(SESSION, Draft("a", "late delta", Mode.GROW))
        assert await bodies(feed) == ["first"]


async def test_what_grows_is_one_entry_at_the_place_of_its_last_growth(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        await feed.add(SESSION, Draft("a", "on", Mode.GROW))
        seen = (await feed.read(SESSION, None)).entries[-1].place
        await feed.add(SESSION, Draft("b", "other"))
        await feed.add(SESSION, Draft("a", "once upon", Mode.GROW))
        assert await bodies(feed) == ["other", "once upon"]
        page = await feed.read(SESSION, seen)
        assert [entry.body for entry in page.entries] == ["other", "once upon"]
        assert not page.reset  # what it has seen was replaced, not lost
        await feed.add(SESSION, Draft("a", "once upon a time"))
        assert await bodies(feed) == ["other", "once upon a time"]


async def test_an_edit_replaces_and_the_same_edit_changes_nothing(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        await feed.add(SESSION, Draft("a", "draft"))
        assert await feed.add(SESSION, Draft("a", "better", Mode.EDIT))
        assert not await feed.add(SESSION, Draft("a", "better", Mode.EDIT))
        assert not await feed.add(SESSION, Draft("a", "draft"))
        assert await bodies(feed) == ["better"]


async def test_the_log_is_bounded_and_says_where_it_has_a_gap(make_feed: MakeFeed) -> None:
    async with make_feed(FeedLimits(entries=10)) as feed:
        places = []
        for n in range(14):
            await feed.add(SESSION, Draft(f"s{n}", f"{n}"))
            places.append((await feed.read(SESSION, places[-1] if places else None)).entries[-1].place)
        assert await bodies(feed) == [f"{n}" for n in range(4, 14)]
        gap = await feed.read(SESSION, places[2])
        assert gap.reset
        assert [entry.body for entry in gap.entries] == [f"{n}" for n in range(4, 14)]
        whole = await feed.read(SESSION, places[3])
        assert not whole.reset
        assert [entry.body for entry in whole.entries] == [f"{n}" for n in range(4, 14)]


async def test_slots_are_remembered_longer_than_entries_and_not_for_ever(make_feed: MakeFeed) -> None:
    async with make_feed(FeedLimits(entries=10)) as feed:
        for n in range(45):
            await feed.add(SESSION, Draft(f"s{n}", f"{n}"))
        assert not await feed.add(SESSION, Draft("s10", "again"))  # its entry is gone, its slot is known
        assert await feed.add(SESSION, Draft("s0", "forgotten"))


async def test_a_place_of_another_log_is_a_gap(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        assert (await feed.read(SESSION, Place(1, 1))).reset
        await feed.add(SESSION, Draft("a", "text"))
        place = (await feed.read(SESSION, None)).entries[0].place
        for other in (Place(place.epoch, 99), Place(place.epoch - 1, 1), Place(0, 0), Place(10**14, 10**14)):
            page = await feed.read(SESSION, other)
            assert page.reset
            assert [entry.body for entry in page.entries] == ["text"]


async def test_a_log_that_was_forgotten_begins_another_one(make_feed: MakeFeed) -> None:
    async with asyncio.timeout(60), make_feed(FeedLimits(ttl_s=0.05)) as feed:
        place = (await added(feed, "a", None)).entries[0].place
        while await bodies(feed):  # nothing tells of what is forgotten
            await asyncio.sleep(0.02)
        page = await added(feed, "b", place)
        assert page.reset
        assert page.entries[0].place > place


async def added(feed: Feed, slot: str, after: Place | None) -> Page:
    """What is read when something was added; again, where it was forgotten before it was read."""
    while True:
        await feed.add(SESSION, Draft(slot, "text"))
        page = await feed.read(SESSION, after)
        if page.entries:
            return page


async def test_reads_have_a_bound_and_go_on(make_feed: MakeFeed) -> None:
    async with make_feed() as feed:
        for n in range(LARGEST_READ + 5):
            await feed.add(SESSION, Draft(f"s{n}", f"{n}"))
        page = await feed.read(SESSION, None)
        assert len(page.entries) == LARGEST_READ
        assert await bodies(feed, page.entries[-1].place) == [f"{n}" for n in range(LARGEST_READ, LARGEST_READ + 5)]


async def test_another_process_wakes_those_who_watch(make_feed: MakeFeed) -> None:
    async with make_feed() as mine, make_feed() as theirs:
        with mine.watch(SESSION) as wake:
            await theirs.add(SESSION, Draft("first", "0"))
            seen: Place | None = None
            for n in range(1, 20):
                while not (entries := (await mine.read(SESSION, seen)).entries):
                    assert await wake.wait(30)
                seen = entries[-1].place
                await theirs.add(SESSION, Draft(f"s{n}", f"{n}"))


async def test_many_writers_leave_no_hole_and_no_repeat(make_feed: MakeFeed) -> None:
    async with make_feed() as one, make_feed() as other:
        added = await asyncio.gather(
            *(feed.add(SESSION, Draft(f"s{n}", f"{n}")) for n in range(40) for feed in (one, other))
        )
        assert sum(added) == 40
        assert sorted(await bodies(one), key=int) == [f"{n}" for n in range(40)]


async def test_a_watcher_hears_again_after_redis_was_away(private_redis: object, tmp_path: Path) -> None:
    server: PrivateRedis = await private_redis()  # type: ignore[operator]
    async with RedisFeed(server.url) as feed:
        with feed.watch(SESSION) as wake:
            await feed.add(SESSION, Draft("a", "before"))
            assert await wake.wait(30)
            await server.kill()
            with pytest.raises(StoreUnavailable):
                await feed.add(SESSION, Draft("b", "away"))
            await server.start()
            # When: it is there again, everybody looks once more
            assert await wake.wait(30)
            async with asyncio.timeout(30):
                while True:
                    await feed.add(SESSION, Draft(f"c{time.monotonic()}", "after"))
                    if await wake.wait(1):
                        break


def test_the_feed_fits_the_state_of_producers(tmp_path: Path) -> None:
    def feed_of(**urls: str) -> Feed:
        return open_feed(Settings(broker_url="memory://", **urls), FeedLimits())

    assert isinstance(feed_of(store_url="memory://"), MemoryFeed)
    assert isinstance(feed_of(store_url=f"sqlite:///{tmp_path}/x.db"), SQLiteFeed)
    assert isinstance(feed_of(store_url=f"file://{tmp_path}"), SQLiteFeed)
    assert isinstance(feed_of(store_url="memory://", producer_state_url="redis://127.0.0.1/0"), RedisFeed)
    with pytest.raises(ConfigurationError):
        RedisFeed("redis://127.0.0.1", namespace="a{b")
