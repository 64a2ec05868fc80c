"""Keyring: the master keys, which wrap the keys of sessions."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sdqueue.errors import ConfigurationError, WrongKey
from sdqueue.sessions.sealing.entry import KeyEntry

if TYPE_CHECKING:
    from sdqueue.sessions.sealing.aes import Cipher

_BYTES: Final = 32
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_HOW: Final = "`sdqueue keys generate` makes one"


class Keyring:
    """Master keys by their ids: the first wraps, all unwrap. It never shows a key, not in errors either.

    Parameters:
        keys: 32 bytes each, by ids of 1 to 32 letters, digits, dots, dashes and underscores.

    Raises:
        ConfigurationError: there is none, an id or a length is wrong, or the package ``cryptography`` is missing.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        from sdqueue.sessions.sealing.aes import Cipher  # not before it is needed: it belongs to an extra

        if not keys:
            raise ConfigurationError(f"a keyring needs at least one key; {_HOW}")
        for number, (name, key) in enumerate(keys.items(), 1):
            _check(number, name, key)
        self._ciphers: dict[str, Cipher] = {name: Cipher(key) for name, key in keys.items()}
        self.first = next(iter(keys))
        """The id of the key that wraps."""

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """The keyring of ``SDQUEUE_ENCRYPTION_KEYS``.

        Raises:
            ConfigurationError: the text has a mistake, or the package ``cryptography`` is missing.
        """
        return cls(parse_keys(text))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the one that wraps first."""
        return tuple(self._ciphers)

    def wrap(self, session_id: str, key_id: str, data_key: bytes) -> tuple[str, bytes]:
        """A data key under the first master key. Returns the id of that, and the wrapped key."""
        return self.first, self._ciphers[self.first].encrypt(data_key, _binding(session_id, key_id, self.first))

    def unwrap(self, session_id: str, entry: KeyEntry) -> bytes:
        """The data key of an entry.

        Raises:
            WrongKey: the master key that wrapped it is not here, or another one has its name.
        """
        cipher = self._ciphers.get(entry.master)
        if cipher is None:
            raise WrongKey(
                f"session {session_id!r}: its key is wrapped by the master key {entry.master!r}, but this process has "
                f"only {', '.join(map(repr, self._ciphers))}; add that key to SDQUEUE_ENCRYPTION_KEYS"
            )
        data_key = cipher.decrypt(entry.wrapped, _binding(session_id, entry.key_id, entry.master))
        if data_key is None:
            raise WrongKey(
                f"session {session_id!r}: the master key {entry.master!r} of this process does not open the session's "
                "key: it is another one of the same name, or the entry was changed; give the right key under this id "
                "in SDQUEUE_ENCRYPTION_KEYS, or restore the entry in the key store from a backup"
            )
        return data_key

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._ciphers)})"


def parse_keys(text: str) -> dict[str, bytes]:
    """Keys written as ``id:base64,id:base64``.

    Raises:
        ConfigurationError: the text has a mistake; the message does not show it, as it may be the key.
    """
    keys: dict[str, bytes] = {}
    for number, (name, encoded) in enumerate(_pairs(text), 1):
        if name in keys:
            raise ConfigurationError(f"key {number} has the id {name!r}, as another one before; give each its own")
        try:
            key = base64.b64decode(encoded.translate(str.maketrans("-_", "+/")), validate=True)
        except ValueError:
            raise ConfigurationError(f"key {number} of the keyring is not in base64; {_HOW}") from None
        _check(number, name, key)
        keys[name] = key
    return keys


def mask_keys(text: str) -> str:
    """The same with every key replaced by ``***``, and all of what is not of this form."""
    pairs = [pair.strip().partition(":") for pair in text.split(",")]
    return ",".join(f"{name}:***" if colon and _ID.fullmatch(name) else "***" for name, colon, _ in pairs)


def generate(name: str = "") -> str:
    """A new random key as it is written in ``SDQUEUE_ENCRYPTION_KEYS``.

    Parameters:
        name: its id; default: today's date, such as ``k20260301``.

    Raises:
        ConfigurationError: the name cannot be an id.
    """
    name = name or f"k{datetime.now(UTC):%Y%m%d}"
    key = secrets.token_bytes(_BYTES)
    if not _ID.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the id of a key: use 1 to 32 letters, digits, dots, dashes and underscores"
        )
    return f"{name}:{base64.b64encode(key).decode()}"


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for number, pair in enumerate(text.split(","), 1):
        name, colon, encoded = pair.strip().partition(":")
        if not colon:
            raise ConfigurationError(f"key {number} of the keyring has no id; write it as id:base64; {_HOW}")
        yield name.strip(), encoded.strip()


def _check(number: int, name: str, key: bytes) -> None:
    if not _ID.fullmatch(name):
        raise ConfigurationError(
            f"key {number} of the keyring has an id that is not 1 to 32 letters, digits, dots, dashes and underscores"
        )
    if len(key) != _BYTES:
        raise ConfigurationError(f"key {number} of the keyring has {len(key)} bytes, not {_BYTES}; {_HOW}")


def _binding(session_id: str, key_id: str, master: str) -> bytes:
    return f"sdqueue key\0{master}\0{key_id}\0{session_id}".encode("utf-8", "surrogatepass")
