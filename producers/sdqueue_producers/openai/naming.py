"""Naming: sessions, turns and answers, out of what a client gives."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from sdqueue_producers.openai.asked import Asked
from sdqueue_producers.openai.trouble import Trouble
from sdqueue_producers.request import Request

MAX_IDEMPOTENCY_KEY: Final = 256
"""Longest ``Idempotency-Key``, in characters."""

MAX_NAME: Final = 180
"""Longest name of a session that is kept as it is, in characters; a session id has 256, and the key's name is in it."""

_WORD: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Names:
    """How a question, its session and its answer are called.

    Parameters:
        key: the name of the bearer key.
        session: the session, within those of the key.
        word: the turn, within those of the key: 40 hexadecimal digits.
    """

    key: str
    session: str
    word: str

    @property
    def session_id(self) -> str:
        """Of the turn."""
        return f"openai:{self.key}:{self.session}"

    @property
    def turn_id(self) -> str:
        """Of the turn."""
        return f"openai:{self.key}:{self.word}"

    @property
    def chat_id(self) -> str:
        """Of the answer of chat completions."""
        return f"chatcmpl-{self.word}"

    @property
    def response_id(self) -> str:
        """Of the answer of responses; it carries the session, so that it never gets unknown."""
        token = base64.urlsafe_b64encode(f"{self.word}{self.session}".encode()).decode().rstrip("=")
        return f"resp_{token}"

    @property
    def message_id(self) -> str:
        """Of the message in that answer."""
        return f"msg_{self.word}"


def named_by(response_id: str, key: str) -> Names:
    """What the id of an answer says: no secret, since a key reaches its own sessions anyway.

    Raises:
        Trouble: 404, it is none of ours.
    """
    token = response_id.removeprefix("resp_")
    try:
        told = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        told = ""
    names = Names(key, told[40:], told[:40])
    if not response_id.startswith("resp_") or not _WORD.fullmatch(names.word) or not names.session:
        raise Trouble(404, "response_not_found", f"there is no response {response_id[:100]!r}", param="response_id")
    _check_session(names.session, "previous_response_id")
    return names


def names_of(turn_id: str, session: object) -> Names | None:
    """The names of a turn of ours; ``None``: it is none."""
    match turn_id.split(":"):
        case ["openai", key, word] if _WORD.fullmatch(word) and isinstance(session, str):
            return Names(key, session, word)
    return None


def name_session(asked: Asked, request: Request, key: str, headers: Sequence[str]) -> str | None:
    """The session that a question names; ``None``: none. It is never guessed from the history.

    Raises:
        Trouble: 400 or 404, the name is none.
    """
    for header in headers:
        if value := request.headers.get(header, "").strip():
            return _check_session(_utf8(value), header)
    if asked.conversation is not None:
        return _check_session(asked.conversation, "conversation")
    if asked.previous is not None:
        return named_by(asked.previous, key).session
    if asked.user is not None:
        return _check_session(asked.user, "user")
    return None


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """What the client calls its request; ``None``: nothing.

    Raises:
        Trouble: 400, it is too long.
    """
    given = headers.get("idempotency-key", "").strip()
    if len(given) > MAX_IDEMPOTENCY_KEY:
        raise Trouble(400, "invalid_value", f"Idempotency-Key: has more than {MAX_IDEMPOTENCY_KEY} characters")
    return given or None


def word_of(session: str | None, given: str) -> str:
    """The turn's word for a client's own: equal for every repeat, and another one in another session."""
    return _digest(f"{session or ''}\0{given}")


def new_word() -> str:
    """A word for a turn that the client gives no name."""
    return _digest(uuid4().hex)


def fingerprint(request: Request, key: str, session: str | None) -> str:
    """Equal for the same request sent again."""
    body = hashlib.sha256(request.body).hexdigest()
    return _digest("\0".join((key, session or "", request.path, body)))


def _check_session(name: str, param: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise Trouble(400, "invalid_session", f"{param}: a session's name has no control characters", param=param)
    return name if len(name) <= MAX_NAME else f"sha-{_digest(name)}"


def _utf8(value: str) -> str:
    """Headers arrive as Latin-1; what was UTF-8 is made that again, so that a name is the same in header and body."""
    try:
        return value.encode("latin-1").decode()
    except ValueError:
        return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
