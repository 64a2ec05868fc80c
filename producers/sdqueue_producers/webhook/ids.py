"""Ids and keys: how turns and sessions of a webhook are called in the queue and in the state."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from sdqueue.messages import MAX_SESSION_ID

CHANNEL: Final = "webhook"

ENDPOINT_NAME: Final = r"[a-z0-9_-]{1,40}"
"""Of an endpoint; without a colon, so that ids of different endpoints can never be equal."""

_ID: Final = re.compile(r"[A-Za-z0-9_:=+@~-]{1,160}")

ID_FORM: Final = "1 to 160 letters, digits and _ - : = + @ ~"
"""No dot, since the parts of what is signed are joined by dots; no slash, since it is a segment of a path."""


def is_id(text: str) -> bool:
    """Whether a sender may name a turn so."""
    return _ID.fullmatch(text) is not None


def turn_id(endpoint: str, id_: str) -> str:
    """The turn's id in the queue."""
    return f"{CHANNEL}:{endpoint}:{id_}"


def session_id(endpoint: str, session: str) -> str:
    """The session's id in the queue: each endpoint has sessions of its own. What is too long is hashed."""
    name = f"{CHANNEL}:{endpoint}:{session}"
    if len(name) <= MAX_SESSION_ID:
        return name
    return f"{CHANNEL}:{endpoint}:sha256-{hashlib.sha256(session.encode()).hexdigest()}"


@dataclass(frozen=True)
class StateKeys:
    """The state's keys of one turn.

    Parameters:
        turn: its id in the queue.
    """

    turn: str

    @property
    def reply(self) -> str:
        """What ended it, as JSON."""
        return f"{CHANNEL}:reply:{self.turn}"

    @property
    def session(self) -> str:
        """The sender's name of its session."""
        return f"{CHANNEL}:session:{self.turn}"

    @property
    def way(self) -> str:
        """How its reply goes to the sender, ``held`` or ``callback``, where both are possible."""
        return f"{CHANNEL}:way:{self.turn}"

    @property
    def seen(self) -> str:
        """Set by the ingress once the broker has it."""
        return f"{CHANNEL}:seen:{self.turn}"


def gone_key(endpoint: str) -> str:
    """Set where the receiver of callbacks has said that it is gone."""
    return f"{CHANNEL}:gone:{endpoint}"


@dataclass(frozen=True)
class TurnAddress:
    """What a turn carries so that its reply finds back.

    Parameters:
        endpoint: its name.
        id: the sender's name of the turn.
        session: the sender's name of the session.
        held: somebody waited for the reply on the request itself.
    """

    endpoint: str
    id: str
    session: str
    held: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"endpoint": self.endpoint, "id": self.id, "session": self.session, "held": self.held}

    @classmethod
    def parse(cls, address: Any) -> Self:
        """Read it.

        Raises:
            ValueError: it is none.
        """
        match address:
            case {"endpoint": str(endpoint), "id": str(id_), "session": str(session), "held": bool(held)}:
                return cls(endpoint, id_, session, held)
        raise ValueError("the address is not one of a webhook: endpoint, id, session and held are expected")
