"""CheckedResolver: looks a host up once, and gives only addresses that may be connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp.abc import AbstractResolver, ResolveResult

from sdqueue_producers.webhook.networks import AddressPolicy

Lookup = Callable[[str, int, socket.AddressFamily], Awaitable[list[tuple[socket.AddressFamily, str]]]]
"""The addresses of a host, with their families; raises OSError."""


class ForbiddenAddressError(OSError):
    """A host has an address that must not be connected to."""


async def system_lookup(host: str, port: int, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, str]]:
    """What the system's resolver says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
    return [
        # A zone is put back where there is one: the check then refuses it.
        (family, f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] and "%" not in str(address[0])
         else str(address[0]))
        for family, _, _, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]  # fmt: skip


class CheckedResolver(AbstractResolver):
    """The resolver of a connector that may reach only some addresses.

    The connector connects to what this answers and asks no second time, so a name that changes its address between
    check and connection (DNS rebinding) gains nothing. One bad address is enough to refuse a name: no honest receiver
    has a public and a private one at once, and which of them is tried is not in our hands.

    Parameters:
        policy: which addresses may be connected to.
        lookup: asks for them.
    """

    def __init__(self, policy: AddressPolicy, lookup: Lookup = system_lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The checked addresses.

        Raises:
            ForbiddenAddressError: one of them must not be connected to.
            OSError: there are none.
        """
        found = await self._lookup(host, port, family)
        if not found:
            raise OSError(f"{host} has no address")
        for _, address in found:
            problem = self._policy.problem(address)
            if problem is not None:
                raise ForbiddenAddressError(f"{host} is not called: {problem}")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""
