"""Keeps one connection to RabbitMQ: opened when first needed, opened again when lost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Final

from aiormq.exceptions import AuthenticationError, InvalidFrameError, ProbableAuthenticationError
from yarl import URL

from sdqueue.brokers.rabbitmq.connection import Connection, describe
from sdqueue.errors import BrokerUnavailable
from sdqueue.tls import advice
from sdqueue.urls import each_host, mask

log = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 10.0
"""For all hosts together: a machine that is gone says nothing, and the next host should still get its turn while a
publisher waits."""
LEAST_TIMEOUT_S: Final = 2.0
SETTLED_S: Final = 1.0
"""A connection that lived this long was a good one: after its loss the waiting starts from the shortest
delay."""


class Refused(BrokerUnavailable):
    """The broker answers but does not let us in; waiting will not help."""


class Supervisor:
    """Gives out the live connection, and replaces a dead one after 0.1 s up to 5 s, with jitter.

    Of several hosts it takes the first that answers, beginning with any and going on behind the last one used, so
    that the clients of a cluster spread, and leave a dead node at once.

    Parameters:
        url: ``amqp://`` or ``amqps://``, with one host or several.
        name: what the broker shows for the connection.
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._address = mask(url)
        self._hosts = each_host(url)
        random.shuffle(self._hosts)
        self._timeout_s = max(CONNECT_TIMEOUT_S / len(self._hosts), LEAST_TIMEOUT_S)
        self._user = URL(self._hosts[0]).user or "guest"
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure = ""
        self._refused = False
        self._closed = False

    @property
    def connection(self) -> Connection | None:
        """The connection, where there is a live one."""
        return self._connection if self._connection is not None and self._connection.alive else None

    async def get(self, deadline: float, waited_s: float) -> Connection:
        """The live connection, as soon as there is one.

        Parameters:
            deadline: the event loop's time until which to wait.
            waited_s: how long that is from the caller's point of view, for the message.

        Raises:
            BrokerUnavailable: there is none until then, or the broker refuses us.
        """
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._keep(), name=f"{self.name} supervisor")
        while True:
            if self._closed:
                raise BrokerUnavailable(f"the connection {self.name!r} to {self._address} was closed by this process")
            if (connection := self.connection) is not None:
                return connection
            if self._refused:
                raise Refused(
                    f"RabbitMQ at {self._address} refuses user {self._user!r}: {self._failure}; "
                    "check the password / vhost permission"
                )
            changed = self._changed
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                raise self.unavailable(waited_s) from None

    def unavailable(self, waited_s: float, why: str = "") -> BrokerUnavailable:
        """The error for a caller whose time is over."""
        cause = why or self._failure
        return BrokerUnavailable(
            f"RabbitMQ at {self._address} was not reached, or did not answer, in {waited_s:g} s"
            f"{f' ({cause})' if cause else ''}; "
            + advice(cause, "check that it runs there and that the address is right")
        )

    async def close(self) -> None:
        """End the connection and look for no other. Idempotent."""
        self._closed = True
        self._notify()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            started = time.monotonic()
            self._connection = await self._open_any()
            self._notify()
            if self._connection is not None:
                self._failure = await asyncio.shield(self._connection.lost)
                log.warning("%s: connection to %s lost: %s", self.name, self._address, self._failure)
                await self._connection.close()
                if time.monotonic() - started > SETTLED_S:
                    delay = FIRST_DELAY_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, LAST_DELAY_S)

    async def _open_any(self) -> Connection | None:
        """A connection to the first host that takes us. Whatever went wrong, the next round may do better."""
        failures: list[str] = []
        refused = False
        for url in tuple(self._hosts):
            self._hosts.append(self._hosts.pop(0))  # the next round begins behind this one
            opened = await self._open(url)
            if isinstance(opened, Connection):
                self._refused, self._failure = False, ""
                return opened
            no_vhost = _means_no_vhost(opened)
            refused |= no_vhost or isinstance(opened, AuthenticationError | ProbableAuthenticationError)
            failure = "the vhost is missing or not allowed" if no_vhost else describe(opened)
            log.warning("%s: cannot connect to %s: %s", self.name, mask(url), failure)
            host = URL(url).host_subcomponent
            failures.append(failure if len(self._hosts) == 1 else f"{host}:{URL(url).port or 5672}: {failure}")
        self._refused, self._failure = refused, "; ".join(failures)
        return None

    async def _open(self, url: str) -> Connection | BaseException:
        """A connection, or why there is none."""
        task = asyncio.create_task(Connection.open(url, self.name, timeout_s=self._timeout_s))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and task.exception() is None:
                await task.result().close()
            raise
        if task.cancelled():  # aiormq cancels its own handshake when the peer hangs up
            return ConnectionError("it hung up during the handshake")
        return task.exception() or task.result()


def _means_no_vhost(error: BaseException) -> bool:
    """aiormq's words for a connection.close where connection.open-ok is due: no such vhost, or not for us."""
    return isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error)
