"""CallbackTarget: where callbacks go, checked when the configuration is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from yarl import URL

from sdqueue_producers.webhook.networks import AddressPolicy

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_VISIBLE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class CallbackTarget:
    """A URL that callbacks go to, and the addresses that its host may have.

    Parameters:
        url: as configured.
        host: its host; an IPv6 address without brackets.
        policy: which addresses may be connected to.
    """

    url: str
    host: str
    policy: AddressPolicy

    @classmethod
    def parse(cls, url: str, policy: AddressPolicy, *, allow_http: bool = False) -> CallbackTarget:
        """Read a URL. Forms of a host that programs read in different ways are refused, whatever they mean.

        Raises:
            ValueError: with a reason that never shows the URL, whose path or query may be a secret.
        """
        if not _VISIBLE.fullmatch(url) or "\\" in url:
            raise ValueError("must be a URL of visible ASCII characters, without spaces and backslashes")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from None
        if parts.scheme not in ("https", "http"):
            raise ValueError("must begin with https://")
        if parts.scheme == "http":
            if not allow_http:
                raise ValueError("must begin with https://; http:// needs allow_http = true and allow_networks")
            if not policy.allowed:
                raise ValueError("http:// is for private networks: name them in allow_networks")
            policy = AddressPolicy(policy.allowed, public=False)
        if "@" in parts.netloc:
            raise ValueError("must not have a user name or password")
        if parts.fragment or url.endswith("#"):
            raise ValueError("must not have a fragment (#...)")
        if port == 0:
            raise ValueError("must not have port 0")
        host = parts.hostname or ""
        if parts.netloc.startswith("["):
            problem = policy.problem(host)
            if problem is not None:
                raise ValueError(problem)
        else:
            _check_name(host, policy)
        _check_alike(url, host, parts.port)
        return cls(url, host, policy)


def _check_alike(url: str, host: str, port: int | None) -> None:
    """What was checked must be what is called: the HTTP client reads a URL with a parser of its own."""
    try:
        read = URL(url)
        alike = (read.raw_host, read.explicit_port) == (host, port)
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if not alike:
        raise ValueError(f"is read in different ways: as host {host!r} and as {read.raw_host!r}")


def _check_name(host: str, policy: AddressPolicy) -> None:
    if not host:
        raise ValueError("must have a host")
    if host.endswith("."):
        raise ValueError(f"the host {host!r} must not end in a dot")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"the host {host[:80]!r} is no name; write one with other letters in its xn-- form")
    if _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
        # What ends in a number is an address to one program or another: 127.1, 2130706433, 0x7f.1, 0177.0.0.1
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"the host {host!r} must be a name, or an address with four decimal numbers") from None
        problem = policy.problem(host)
        if problem is not None:
            raise ValueError(problem)
