"""RedisSessionStore: sessions in Redis, for any number of machines."""

from __future__ import annotations

from redis.asyncio import Redis, RedisCluster

from sdqueue.errors import ConfigurationError
from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis.backlog import RedisBacklog
from sdqueue.sessions.redis.connection import connect
from sdqueue.sessions.redis.keys import RECORD_KEYS, Keys, KeySpace
from sdqueue.sessions.redis.lease import RedisLeasing
from sdqueue.sessions.redis.opening import open_record
from sdqueue.sessions.redis.records import Saving, turn_bytes
from sdqueue.sessions.redis.scripts import BEGIN, DELETE, LOAD, REWIND, SAVE, ScriptRunner
from sdqueue.sessions.sealing.seal import UNSEALED, Sealing
from sdqueue.sessions.stores.foreign import ForeignSaves


class RedisSessionStore(RedisBacklog):
    """Keeps sessions in Redis; every save is one script, so it happens wholly or not at all.

    Messages and outcomes of turns are list entries, so a save writes what is new and not the conversation again. All
    keys of a session are ``<namespace>:{<session id>}:…``, in one slot of a cluster, and end ``ttl_s`` after the
    last save or the last that came into its backlog. The calls of many sessions travel together. With a
    :class:`~sdqueue.RedisLockBackend` on the same Redis and namespace, lock and load are one round trip, and save and
    release another.

    Nothing needs to be started; :meth:`aclose` ends the connections. It also works in superdialog's own worker.

    Parameters:
        url: see :func:`~sdqueue.sessions.redis.connection.connect`.
        namespace: the prefix of its keys; all processes of a pool have the same.
        ttl_s: after so many seconds without a save a session is forgotten.
        client: instead of the URL, a redis-py client of the application's own, which must allow some connections.
        sealer: encrypts what is kept; a :class:`~sdqueue.Sealer` of the store's own. Default: nothing is encrypted.

    Raises:
        ConfigurationError: the URL, the namespace or the TTL cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "sdqueue",
        ttl_s: float = 30 * 24 * 3600.0,
        client: Redis | RedisCluster | None = None,
        sealer: Sealing | None = None,
    ) -> None:
        if not ttl_s >= 1:
            raise ConfigurationError(f"the life of a session is {ttl_s:g} s; it must be at least 1 s")
        self._link = connect(url, client)
        self._service: object = url if client is None else client
        self._keys = KeySpace(namespace)
        self._ttl_ms = int(ttl_s * 1000)
        self._scripts = ScriptRunner(self._link)
        self._sealing = UNSEALED if sealer is None else sealer
        self._foreign = ForeignSaves()

    async def load(self, session_id: str) -> SessionRecord | None:
        """See :meth:`SessionStore.load <sdqueue.sessions.stores.store.SessionStore.load>`."""
        return self._foreign.loaded(session_id, await self._record(session_id))

    async def _record(self, session_id: str) -> SessionRecord | None:
        keys = self._record_keys(session_id)
        reply = await self._scripts.call(LOAD, keys, (b"0",))
        return await open_record(self._sealing, self._scripts, keys, session_id, reply)

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """See :meth:`SessionStore.save <sdqueue.sessions.stores.store.SessionStore.save>`."""
        if not isinstance(record, SessionRecord):
            await self._foreign.save(session_id, record, read=self._record, save=self.save)
            return
        keys = self._record_keys(session_id)
        seal = await self._sealing.writing(session_id, record.stored)
        saving = Saving.of(session_id, record, self._ttl_ms, seal=seal)
        if not saving.finish(record, await self._scripts.call(SAVE, keys, saving.args)):
            saving = Saving.of(session_id, record, self._ttl_ms, seal=seal, whole=True)
            saving.finish(record, await self._scripts.call(SAVE, keys, saving.args))

    async def delete(self, session_id: str) -> None:
        """Forget the session; nothing happens where there is none.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        mark = await self._mark(session_id)  # before: what is deferred after the delete lists the session anew
        await self._scripts.call(DELETE, self._keys.session(session_id), ())
        if mark is not None:
            await self.unlist(session_id, mark)

    async def begin(self, session_id: str, turn_id: str) -> int:
        """Count a beginning of this turn. Returns how many there were.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        args = (turn_bytes(turn_id), self._ttl_ms)
        count: int = await self._scripts.call(BEGIN, self._record_keys(session_id), args)
        return count

    async def rewind(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        await self._scripts.call(REWIND, self._record_keys(session_id), (turn_bytes(turn_id), b""))

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        """Take one beginning back whose agent had started.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        await self._scripts.call(REWIND, self._record_keys(session_id), (turn_bytes(turn_id), b"1"))

    def leasing(self, lock_backend: LockBackend) -> RedisLeasing | None:
        """Lock and load in one round trip, where the lock backend has the same Redis and namespace."""
        if not isinstance(lock_backend, RedisLockBackend):
            return None
        if lock_backend.service != self._service or lock_backend.keys.namespace != self._keys.namespace:
            return None
        return RedisLeasing(lock_backend, self._scripts, self._ttl_ms, self._sealing)

    async def aclose(self) -> None:
        """End the connections, after what is under way. Idempotent."""
        await self._scripts.aclose()
        await self._link.aclose()
        await self._sealing.aclose()

    def _record_keys(self, session_id: str) -> Keys:
        return self._keys.session(session_id)[:RECORD_KEYS]
