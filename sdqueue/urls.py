"""URLs of backends: which schemes there are, what each needs, and how one is shown without its passwords."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

BROKER_SCHEMES: Final = ("memory", "sqlite", "amqp", "amqps")
STORE_SCHEMES: Final = (
    "memory", "null", "file", "sqlite", "redis", "rediss", "redis+cluster", "rediss+cluster",
    "redis+sentinel", "rediss+sentinel",
)  # fmt: skip
KEYS_SCHEMES: Final = tuple(s for s in STORE_SCHEMES if s != "null")
LOCK_SCHEMES: Final = tuple(s for s in STORE_SCHEMES if s not in ("null", "sqlite"))
STREAM_SCHEMES: Final = tuple(s for s in STORE_SCHEMES if s != "file")
PRODUCER_STATE_SCHEMES: Final = tuple(s for s in STORE_SCHEMES if s not in ("null", "file"))

_SECRET: Final = re.compile(r"passw|secret|token", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)([^:@/?#]*):.*@", re.DOTALL)


def mask(url: str) -> str:
    """A URL with its passwords, in front of the host or in the query, replaced by ``***``."""
    url = _USERINFO.sub(r"\1:***@", url)  # not by urlsplit: a password with a slash is still a password
    base, question, query = url.partition("?")
    if not question or not _SECRET.search(query):
        return url
    pairs = [
        (name, "***" if _SECRET.search(name) else value) for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{base}?{urlencode(pairs, safe='*/:,')}"


def check_url(url: str, schemes: tuple[str, ...]) -> str:
    """The URL, where it has one of these schemes and what that scheme needs.

    Raises:
        ValueError: what is wrong, without showing a password.
    """
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in schemes:
        raise ValueError(f"must start with one of {', '.join(s + '://' for s in schemes)}")
    match scheme:
        case "memory" | "null":
            if rest:
                raise ValueError(f"{scheme}:// takes nothing after it")
        case "sqlite" | "file":
            example = {
                "sqlite": "sqlite:///data/x.db, or sqlite:////var/x.db for an absolute path",
                "file": "file:///var/x",
            }
            if not rest.startswith("/") or not rest.strip("/") or "?" in rest or "#" in rest:
                raise ValueError(f"needs a path and nothing else: {example[scheme]}")
        case "redis" | "rediss":
            _check_server(url)
        case _:
            for one in each_host(url):
                _check_server(one)
    return url


def each_host(url: str) -> list[str]:
    """A URL for each host of one that names several, separated by commas: ``amqp://me:pw@a:5672,b/shop``."""
    scheme, separator, rest = url.partition("://")
    end = next((at for at, character in enumerate(rest) if character in "/?#"), len(rest))
    userinfo, at, hosts = rest[:end].rpartition("@")
    return [f"{scheme}{separator}{userinfo}{at}{host}{rest[end:]}" for host in hosts.split(",")]


def _check_server(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its words would show a piece of the password
        raise ValueError(
            "is no URL with a port number; special characters of a password are encoded, / as %2F"
        ) from None
    if not parts.hostname or port == 0:
        raise ValueError(f"needs a host, such as {parts.scheme}://localhost")
