"""BotApi: calls of Telegram's Bot API by one bot. Nothing that it raises or logs holds the token."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from pydantic import SecretStr
from pydantic_core import from_json

from sdqueue.errors import SdqueueError

CONNECT_TIMEOUT_S: Final = 5.0


class CallFailed(SdqueueError):
    """A call had no good end."""


class NotSent(CallFailed):
    """There was no connection, so that Telegram knows nothing of it."""


class Cut(CallFailed):
    """The connection ended, or the time was up, when the request was on its way."""


class Refused(CallFailed):
    """Telegram did not do it.

    Parameters:
        method: what was called.
        code: the HTTP status.
        description: what it says.
        parameters: ``retry_after`` in seconds, or ``migrate_to_chat_id``.
    """

    def __init__(self, method: str, code: int, description: str, parameters: dict[str, Any]) -> None:
        super().__init__(f"Telegram answered {method} with {code}: {description}")
        self.code = code
        self.description = description
        self.parameters = parameters

    def says(self, *words: str) -> bool:
        """Whether its description holds one of these, whatever their case."""
        return any(word.lower() in self.description.lower() for word in words)


class BotApi:
    """One bot's calls.

    Parameters:
        session: of aiohttp; closed by its owner.
        url: of the Bot API.
        token: the bot's; the address of every call holds it, which is why errors of aiohttp are not passed on.
        timeout_s: seconds that a call may take.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, token: SecretStr, timeout_s: float) -> None:
        self._session = session
        self._url = url
        self._token = token
        self._timeout_s = timeout_s

    @property
    def bot_id(self) -> int:
        """The bot's own user id, which its token begins with."""
        return int(self._token.get_secret_value().partition(":")[0])

    async def call(self, method: str, params: dict[str, Any], *, wait_s: float = 0.0) -> Any:
        """Call a method; gives its result.

        Parameters:
            method: such as ``sendMessage``.
            params: its parameters; those that are ``None`` are left out.
            wait_s: seconds for which the answer may be held back by intention.

        Raises:
            NotSent, Cut, Refused.
        """
        timeout = aiohttp.ClientTimeout(
            total=self._timeout_s + wait_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s)
        )
        body = {name: value for name, value in params.items() if value is not None}
        try:
            async with self._session.post(
                f"{self._url}/bot{self._token.get_secret_value()}/{method}",
                json=body,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                status, answer = response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"no connection to Telegram for {method}: {type(error).__name__}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Cut(f"the connection ended in {method} before Telegram answered: {type(error).__name__}") from None
        return _result(method, status, answer)


def _result(method: str, status: int, answer: bytes) -> Any:
    try:
        told = from_json(answer)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        if status < 300:
            raise Cut(f"Telegram answered {method} with {status}, but not with JSON")
        told = {}
    if told.get("ok") is True:
        return told.get("result")
    code = told.get("error_code")
    parameters = told.get("parameters")
    raise Refused(
        method,
        code if isinstance(code, int) else status,
        str(told.get("description", "no reason given"))[:300],
        parameters if isinstance(parameters, dict) else {},
    )
