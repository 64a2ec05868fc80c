"""Callback: posts replies to the receiver of an endpoint, signed, and reads its answer."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Final, Self

import aiohttp
from standardwebhooks import Webhook

from sdqueue.errors import ConfigurationError
from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.webhook.resolver import CheckedResolver, ForbiddenAddressError, Lookup, system_lookup
from sdqueue_producers.webhook.settings import EndpointSettings

MAX_RETRY_AFTER_S: Final = 24 * 3600.0
"""The longest wait that a receiver can ask for, in seconds."""

CONNECT_TIMEOUT_S: Final = 10.0


class Callback:
    """The receiver of an endpoint's replies. Used as ``async with callback``.

    A receiver knows a repeat by its ``webhook-id``, so that an attempt whose outcome is not known (a timeout, a
    connection that was cut) counts as failed, as Standard Webhooks has it, and is made again by the schedule.

    Parameters:
        endpoint: its name.
        settings: with a ``callback_url``.
        lookup: asks for addresses.

    Raises:
        ConfigurationError: the file of authorities cannot be read.
    """

    def __init__(self, endpoint: str, settings: EndpointSettings, *, lookup: Lookup = system_lookup) -> None:
        target = settings.target()
        assert target is not None
        self._endpoint = endpoint
        self._target = target
        self._keys = [Webhook(secret.get_secret_value()) for secret in settings.callback_secrets]
        self._timeout_s = settings.callback_timeout_s
        self._lookup = lookup
        self._ssl = _ssl_context(endpoint, settings.callback_ca_file)
        self._session: aiohttp.ClientSession | None = None
        # Of a hash, since the URL may be a secret and the state is not encrypted.
        told = f"{settings.callback_revision} {target.url}"
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()
        """Changes with the configuration of the receiver."""

    async def __aenter__(self) -> Self:
        # Nothing of the environment: a proxy there would connect for us, to what it resolves by itself.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=CheckedResolver(self._target.policy, self._lookup),
                use_dns_cache=False,
                ssl=self._ssl,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)
            ),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "sdqueue-webhook"},
        )  # fmt: skip
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, key: str, body: str) -> None:
        """Post a reply; returns when the receiver has taken it.

        Parameters:
            key: the ``webhook-id``, the same with each attempt.
            body: JSON text.

        Raises:
            RetryAfter: the receiver did not take it, or nobody knows.
            Permanent: the receiver wants nothing more (``gone``).
        """
        assert self._session is not None, "used outside its `async with` block"
        # The connector asks no resolver for a host that is an address.
        literal = self._target.policy.problem(self._target.host) if _is_address(self._target.host) else None
        if literal is not None:
            raise RetryAfter(None, literal)
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": key,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(one.sign(msg_id=key, timestamp=now, data=body) for one in self._keys),
        }
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(
                    self._target.url, data=body.encode(), headers=headers, allow_redirects=False
                ) as response,
            ):
                # The body is not read: the status says it all. One that did not come with the headers ends the
                # connection, however long or slow it is.
                self._judge(response)
        except TimeoutError:
            raise RetryAfter(None, f"no whole answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise RetryAfter(None, _explain(error)) from None

    def _judge(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if 200 <= status < 300:
            return
        if status == 410:
            raise Permanent(
                "gone",
                f"the receiver of endpoint {self._endpoint!r} answered 410 Gone and is not called any more; change its "
                "callback_url, or raise its callback_revision where it is there again",
            )
        if 300 <= status < 400:
            raise RetryAfter(None, f"HTTP {status}: redirects are not followed, put the new address into callback_url")
        wait_s = _retry_after(response.headers.get("Retry-After"))
        bucket = bucket_key(self._endpoint) if status == 429 else None
        raise RetryAfter(wait_s, f"HTTP {status}", bucket=bucket)


def bucket_key(endpoint: str) -> str:
    """The rate limit of an endpoint's callbacks."""
    return f"callback:{endpoint}"


def _is_address(host: str) -> bool:
    return ":" in host or host.rsplit(".", 1)[-1].isdigit()


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a number or a date (RFC 9110); ``None`` where it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):  # the latter for numbers that no date has
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _explain(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ForbiddenAddressError):
        return str(cause)
    # Not str(error) of a malformed answer: it has the URL in it, which may be a secret.
    told = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return f"{type(error).__name__}: {told[:200]}"


def _ssl_context(endpoint: str, ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        return _system_authorities()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"endpoint {endpoint!r}: callback_ca_file {ca_file!r} cannot be read as certificates in PEM: {error}"
        ) from None


@cache  # reading all authorities of the world takes 0.1 s, and endpoints may be many
def _system_authorities() -> ssl.SSLContext:
    return ssl.create_default_context()
