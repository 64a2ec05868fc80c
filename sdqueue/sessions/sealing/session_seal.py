"""SessionSeal: the parts of one session under its data key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, AnyStr

from sdqueue.errors import RecordCorrupt, RecordSealed
from sdqueue.sessions.sealing.seal import Part, compose, is_sealed, label_of, parse

if TYPE_CHECKING:
    from sdqueue.sessions.sealing.aes import Cipher


class SessionSeal:
    """See :class:`~sdqueue.sessions.sealing.seal.Seal`. What a part is, and whose, is bound to it.

    Parameters:
        session_id: the session.
        key_id: names the data key.
        cipher: has it.
    """

    __slots__ = ("_bound", "_cipher", "key_id")

    def __init__(self, session_id: str, key_id: str, cipher: Cipher) -> None:
        self.key_id = key_id
        self._cipher = cipher
        name = session_id.encode("utf-8", "surrogatepass")
        # The length in front: no session, part and place run together as those of others do.
        self._bound = b"sdqueue part\0%d:%b\0" % (len(name), name)

    def seal(self, part: Part, text: AnyStr, place: str | int = "") -> AnyStr:
        """See :meth:`Seal.seal <sdqueue.sessions.sealing.seal.Seal.seal>`."""
        if isinstance(text, bytes):
            return self._seal(part, text, place).encode()
        return self._seal(part, text.encode(), place)

    def open(self, part: Part, stored: str | bytes, place: str | int = "") -> bytes:
        """See :meth:`Seal.open <sdqueue.sessions.sealing.seal.Seal.open>`."""
        return self._open(part, stored, place)

    def seal_outcome(self, turn_id: str, text: str) -> str:
        """See :meth:`Seal.seal_outcome <sdqueue.sessions.sealing.seal.Seal.seal_outcome>`."""
        label = label_of(turn_id)
        return self._seal("outcome", text.encode(), label, label)

    def open_messages(self, stored: Sequence[Any]) -> list[bytes]:
        """See :meth:`Seal.open_messages <sdqueue.sessions.sealing.seal.Seal.open_messages>`."""
        return [self._open("message", each, n) for n, each in enumerate(stored)]

    def open_outcomes(self, stored: Sequence[Any]) -> list[bytes]:
        """See :meth:`Seal.open_outcomes <sdqueue.sessions.sealing.seal.Seal.open_outcomes>`."""
        return [self._open("outcome", each, None) for each in stored]

    def _seal(self, part: Part, content: bytes, place: str | int, label: str = "") -> str:
        return compose(self.key_id, label, self._cipher.encrypt(content, self._binding(part, place)))

    def _open(self, part: Part, stored: str | bytes, place: str | int | None) -> bytes:
        if not is_sealed(stored):
            raise RecordCorrupt(
                f"a {part} is not sealed where others of its session are: something else wrote it, or it was damaged"
            )
        sealed = parse(stored)
        if sealed.key_id != self.key_id:
            raise RecordSealed(
                f"a {part} was sealed with the session key {sealed.key_id}, but the key store has {self.key_id}; "
                "see whether SDQUEUE_KEYS_URL is that of where it was saved, or was restored from an older backup"
            )
        content = self._cipher.decrypt(sealed.box, self._binding(part, sealed.label if place is None else place))
        if content is None:
            raise RecordCorrupt(
                f"a {part} does not open with its key: it was changed, or moved here from elsewhere; "
                "restore the session from a backup, or delete it"
            )
        return content

    def _binding(self, part: Part, place: str | int) -> bytes:
        return self._bound + f"{part}\0{place}".encode("utf-8", "surrogatepass")
