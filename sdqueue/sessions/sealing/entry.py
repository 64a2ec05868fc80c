"""KeyEntry: what a key store keeps of a session, a data key wrapped by a master key."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from typing import Final

from sdqueue.errors import RecordCorrupt, RecordTooNew

_FORM: Final = 1
_ERASED: Final = 64
"""So many erased keys of a session are remembered, those erased last."""


@dataclass(frozen=True)
class KeyEntry:
    """The key of a session, and the keys that were erased before it.

    Parameters:
        key_id: names the data key; empty where it was erased and no new one was made since.
        master: names the master key that wraps it.
        wrapped: the data key, encrypted.
        erased: names of data keys of this session that are gone for good.
    """

    key_id: str = ""
    master: str = ""
    wrapped: bytes = field(default=b"", repr=False)
    erased: tuple[str, ...] = ()

    def without_key(self) -> KeyEntry:
        """What is left when the key is erased."""
        return KeyEntry(erased=(*self.erased, self.key_id)[-_ERASED:])

    def rewrapped(self, master: str, wrapped: bytes) -> KeyEntry:
        """The same key under another master key."""
        return replace(self, master=master, wrapped=wrapped)

    def dump(self) -> bytes:
        """As it is kept."""
        fields: dict[str, object] = {"form": _FORM}
        if self.key_id:
            fields |= {"key_id": self.key_id, "master": self.master, "wrapped": base64.b64encode(self.wrapped).decode()}
        if self.erased:
            fields["erased"] = self.erased
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def load(cls, session_id: str, stored: bytes) -> KeyEntry:
        """The entry of :meth:`dump`.

        Raises:
            RecordTooNew: a newer release wrote it.
            RecordCorrupt: it is none.
        """
        try:
            fields = json.loads(stored)
            form = fields["form"]
            if type(form) is int and form > _FORM:
                raise RecordTooNew(
                    f"session {session_id!r}: its key was stored in form {form}, this release reads form {_FORM}; "
                    "upgrade this process"
                )
            wrapped = base64.b64decode(fields.get("wrapped", ""), validate=True)
            names = [fields.get("key_id", ""), fields.get("master", ""), *fields.get("erased", ())]
            key_id, master, *erased = map(_name, names)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordCorrupt(
                f"session {session_id!r}: its key in the key store is damaged ({type(error).__name__}); "
                "restore that entry from a backup"
            ) from error
        return cls(key_id, master, wrapped, tuple(erased))


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__}, not a name")
    return value


def is_tombstone(stored: bytes) -> bool:
    """Whether an entry as it is kept has no key any more."""
    return b'"wrapped":' not in stored
