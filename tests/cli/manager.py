"""The service manager that has started a process, and hears how it fares: a socket of the test's in systemd's place."""

from __future__ import annotations

import asyncio
import socket


class Manager:
    """Hears what is told, line by line."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    async def until(self, start: str) -> str:
        """The next line that begins so; what comes before is past."""
        async with asyncio.timeout(60):
            while True:
                self.heard += self.waiting()
                while self.heard:
                    line = self.heard.pop(0)
                    if line.startswith(start):
                        return line
                told = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                self.heard += told.decode().split("\n")

    def waiting(self) -> list[str]:
        """What has been told meanwhile."""
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines

    def environment(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}

    def close(self) -> None:
        self._socket.close()
