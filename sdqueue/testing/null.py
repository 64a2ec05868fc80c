"""NullStoreSuite: what a session store must do that remembers nothing, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

from sdqueue.agents import ChatMessage
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import SessionStore, TurnCounter


class NullStoreSuite:
    """Every ephemeral store passes these, the others ``SessionStoreSuite``. A fixture ``store`` gives yours."""

    async def test_a_saved_session_is_new_again(self, store: SessionStore) -> None:
        record = SessionRecord()
        record.chat_ctx.append(ChatMessage("user", "hello"))
        await store.save("s", record)
        assert await store.load("s") is None

    async def test_saves_give_versions_and_never_conflict(self, store: SessionStore) -> None:
        first, second = SessionRecord(), SessionRecord()
        await store.save("s", first)
        await store.save("s", first)
        await store.save("s", second)
        assert (first.version, first.stored.version, second.version) == (2, 2, 1)

    async def test_deleting_what_is_not_there_does_nothing(self, store: SessionStore) -> None:
        await store.delete("s")
        assert await store.load("s") is None

    async def test_every_beginning_is_the_first(self, store: SessionStore) -> None:
        assert offers(store, TurnCounter)
        assert await store.begin("s", "t") == 1
        assert await store.begin("s", "t") == 1
        await store.rewind("s", "t")

    async def test_it_is_never_taken_for_nothing(self, store: SessionStore) -> None:
        assert not hasattr(store, "__len__")
        assert not hasattr(store, "__bool__")
