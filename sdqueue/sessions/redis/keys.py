"""The names of a session's keys in Redis."""

from __future__ import annotations

import re
from typing import Final

from sdqueue.errors import ConfigurationError

Keys = tuple[bytes, ...]
"""All keys of one session, in the order in which ``lua/keys.lua`` takes them."""

_PARTS: Final = (
    b"lock", b"token", b"waiters",
    b"session", b"history", b"turns", b"ids", b"begun",
    b"backlog", b"refused",
    b"deferred", b"newest", b"refusals",
)  # fmt: skip
LOCK_KEYS: Final = 3
"""The first so many are the lock's."""
RECORD_KEYS: Final = 8
"""The first so many are the lock's and the record's."""
LEASE_KEYS: Final = 10
"""The first so many are what a lease looks at."""


class KeySpace:
    """Names keys as ``<namespace>:{<session id>}:<part>``.

    The session id is the hash tag, so that a cluster keeps all keys of a session in one slot. Braces in it are
    escaped (as in URLs), since the first ``}`` would end the tag.

    Parameters:
        namespace: keeps users of one Redis apart.

    Raises:
        ConfigurationError: the namespace has a character that would take part in the hash tag, or is empty.
    """

    def __init__(self, namespace: str) -> None:
        if not re.fullmatch(r"[^{}\s]{1,100}", namespace):
            raise ConfigurationError(
                f"namespace {namespace!r} cannot name Redis keys: use 1 to 100 characters without braces and spaces"
            )
        self.namespace = namespace
        self._prefix = namespace.encode()

    def session(self, session_id: str) -> Keys:
        """All keys of a session."""
        if "{" in session_id or "}" in session_id or "%" in session_id:
            session_id = session_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        # An empty tag would be none. Lone surrogates are legal in JSON, so they can get this far.
        stem = b"%b:{%b}:" % (self._prefix, session_id.encode("utf-8", "surrogatepass") or b"%")
        return tuple([stem + part for part in _PARTS])

    def stream(self, session_id: str, turn_id: str) -> bytes:
        """The log of a turn's streamed answer, in the session's slot."""
        stem = self.session(session_id)[0].removesuffix(_PARTS[0])
        return b"%bstream:%b" % (stem, turn_id.encode("utf-8", "surrogatepass"))

    def wrapped(self, session_id: str) -> bytes:
        """The session's wrapped key, in the same slot as the others."""
        return self.session(session_id)[0].removesuffix(b"lock") + b"key"

    @property
    def wrapped_index(self) -> bytes:
        """The sessions that have a wrapped key, by the last use of it."""
        return b"%b:keys" % self._prefix

    def alive(self, owner: bytes) -> bytes:
        """Exists while the process of this lock owner lives."""
        return b"%b:alive:%b" % (self._prefix, owner)

    @property
    def backlogged(self) -> bytes:
        """The index of sessions that have a backlog."""
        return b"%b:backlogged" % self._prefix

    @property
    def pool(self) -> Keys:
        """The members of a pool of consumers, their announcements, and the epoch of the partitions."""
        stem = b"%b:{members}" % self._prefix
        return stem, stem + b":announced", stem + b":epoch"

    @property
    def granted(self) -> bytes:
        """With an owner appended, the channel that tells it of locks handed over to it."""
        return b"%b:granted:" % self._prefix
