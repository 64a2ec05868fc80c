"""Seal: how the parts of one session are put away by a store, and opened again; here those that are not encrypted.

A sealed part is one ASCII text, ``sealed1:<data key id>:<label>:<base64 of nonce and ciphertext>``. JSON never starts
so, and a store can hold both. The label is the turn's id, in base64, of an outcome, and empty for other parts.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, AnyStr, Final, Literal, NamedTuple, Protocol

from sdqueue.errors import RecordCorrupt, RecordSealed, RecordTooNew
from sdqueue.sessions import codec
from sdqueue.sessions.record import Stored

Part = Literal["record", "head", "message", "outcome", "turn", "refusal"]
"""What a text is, so that none can stand in for another: a whole record, or its head, one of its messages or outcomes,
a turn that waits in the backlog, the outcome of a refused one."""

_FORM: Final = 1
"""Version of the sealed form. What is newer is refused."""


class Seal(Protocol):
    """How the parts of one session are put away and opened."""

    key_id: str
    """The data key that seals; empty where nothing is sealed."""

    def seal(self, part: Part, text: AnyStr, place: str | int = "") -> AnyStr:
        """A part as the store is to keep it.

        Parameters:
            part: what it is.
            text: its content.
            place: where in the session it belongs: it opens only there.
        """
        ...

    def open(self, part: Part, stored: str | bytes, place: str | int = "") -> str | bytes:
        """The text of :meth:`seal`.

        Raises:
            RecordCorrupt: it was changed, or it is no such part of this session.
            RecordSealed: it was sealed with another key.
        """
        ...

    def seal_outcome(self, turn_id: str, text: str) -> str:
        """An outcome of the ring. What comes in front of the last colon is the same for all outcomes of the turn."""
        ...

    def open_messages(self, stored: Sequence[Any]) -> Sequence[Any]:
        """The messages of a conversation from its start; each opens only at its own place."""
        ...

    def open_outcomes(self, stored: Sequence[Any]) -> Sequence[Any]:
        """The outcomes of :meth:`seal_outcome`."""
        ...


class Sealing(Protocol):
    """What a store asks for the seals of its sessions."""

    async def reading(self, session_id: str, stored: str | bytes | None) -> Seal | None:
        """What opens this part and those that were saved with it.

        Returns:
            ``None`` where its key was erased: then the session does not exist any more.

        Raises:
            RecordSealed: its key is not here, or not yet.
            RecordError: it cannot be told what it is.
            StoreUnavailable: the key store cannot be reached.
        """
        ...

    async def writing(self, session_id: str, stored: Stored | None = None) -> Seal:
        """What seals new parts.

        Parameters:
            session_id: the session.
            stored: what the store has of the record that is to be saved; ``None`` for what is no part of a record.

        Raises:
            VersionConflict: that key was erased, and with it what the save was made from.
            RecordSealed: the session's key cannot be unwrapped.
            StoreUnavailable: the key store cannot be reached.
        """
        ...

    async def aclose(self) -> None:
        """End the connections to the key store. Idempotent."""
        ...


class PlainSeal:
    """No seal at all."""

    key_id = ""

    def seal(self, part: Part, text: AnyStr, place: str | int = "") -> AnyStr:
        """The text itself."""
        return text

    def open(self, part: Part, stored: str | bytes, place: str | int = "") -> str | bytes:
        """The text itself."""
        return stored

    def seal_outcome(self, turn_id: str, text: str) -> str:
        """The text itself."""
        return text

    def open_messages(self, stored: Sequence[Any]) -> Sequence[Any]:
        """The texts themselves."""
        return stored

    def open_outcomes(self, stored: Sequence[Any]) -> Sequence[Any]:
        """The texts themselves."""
        return stored


PLAIN: Final = PlainSeal()


class Unsealed:
    """Seals nothing: the :class:`Sealing` of a store that was given none."""

    async def reading(self, session_id: str, stored: str | bytes | None) -> Seal:
        """See :meth:`Sealing.reading`."""
        if stored is not None and is_sealed(stored):
            with codec.naming(session_id):
                parse(stored)
            raise RecordSealed(
                f"session {session_id!r} is sealed, and this process has no keys; set SDQUEUE_ENCRYPTION_KEYS as where "
                "it was saved, or give the store a sealer"
            )
        return PLAIN

    async def writing(self, session_id: str, stored: Stored | None = None) -> Seal:
        """See :meth:`Sealing.writing`."""
        return PLAIN

    async def aclose(self) -> None:
        """Nothing to end."""


UNSEALED: Final = Unsealed()


class Sealed(NamedTuple):
    """A sealed part, taken apart: ``box`` is the nonce with the ciphertext behind it."""

    key_id: str
    label: str
    box: bytes


def is_sealed(stored: str | bytes) -> bool:
    """Whether this part was sealed, by whatever release."""
    return stored.startswith(b"sealed") if isinstance(stored, bytes) else stored.startswith("sealed")


def compose(key_id: str, label: str, box: bytes) -> str:
    """A sealed part as it is kept."""
    return f"sealed1:{key_id}:{label}:{base64.b64encode(box).decode()}"


def label_of(turn_id: str) -> str:
    """The label of the outcomes of a turn."""
    return base64.urlsafe_b64encode(turn_id.encode("utf-8", "surrogatepass")).decode()


def parse(stored: str | bytes) -> Sealed:
    """The parts of :func:`compose`.

    Raises:
        RecordTooNew: a newer release sealed it.
        RecordCorrupt: it is nothing of that kind.
    """
    fields = (stored if isinstance(stored, bytes) else stored.encode("utf-8", "replace")).split(b":")
    if len(fields) == 4 and fields[0] == b"sealed1" and len(fields[1]) == 16:
        try:
            return Sealed(
                fields[1].decode("ascii"), fields[2].decode("ascii"), binascii.a2b_base64(fields[3], strict_mode=True)
            )
        except ValueError as error:
            raise RecordCorrupt(f"a sealed part is damaged: {error}; restore it from a backup") from error
    form = re.match(rb"sealed(\d{1,9}):", b":".join(fields))
    if form is not None and int(form[1]) > _FORM:
        raise RecordTooNew(f"a part was sealed in form {int(form[1])}, this release opens form 1; upgrade this process")
    raise RecordCorrupt("a sealed part is damaged; restore it from a backup")
