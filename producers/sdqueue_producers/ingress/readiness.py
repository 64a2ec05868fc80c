"""Readiness: whether turns can be handed over now."""

from __future__ import annotations

from sdqueue.client import Client
from sdqueue.observe.health import ASK_S


class Handover:
    """Asks the broker whether turns can be handed over: all that it can, until that is so, and then that it is there.

    Parameters:
        client: has the broker.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = False

    async def __call__(self) -> None:
        """Ask.

        Raises:
            BrokerUnavailable, TopologyError: they cannot.
        """
        ask = self._client.reach if self._seen else self._client.check
        self._seen = False
        await ask(timeout=ASK_S)
        self._seen = True
