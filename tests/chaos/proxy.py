"""A network between a consumer and its broker that may go silent: connections stay open, and nothing passes."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit


class Proxy:
    """Forwards TCP connections to a broker.

    Parameters:
        url: of the broker.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._target = (parts.hostname or "localhost", parts.port or 5672)
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._there: set[asyncio.StreamWriter] = set()

    async def open(self) -> str:
        """Listen, and return the broker's URL through it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()

    def silence(self) -> None:
        """Nothing passes from now on, in either direction; what was sent meanwhile arrives afterwards."""
        self._passing.clear()

    def speak(self) -> None:
        """Everything passes again."""
        self._passing.set()

    def cut_off(self) -> None:
        """The broker loses all connections, and the other side is not told."""
        self.silence()
        for writer in self._there:
            writer.transport.abort()

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                there, back = await asyncio.open_connection(*self._target)
                self._there.add(back)
                try:
                    await asyncio.gather(self._forward(reader, back), self._forward(there, writer))
                finally:
                    self._there.discard(back)
                    back.close()
            finally:
                writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        await self._passing.wait()
        raise ConnectionResetError  # ends the other direction too
