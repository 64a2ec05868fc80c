"""Every exception that sdqueue raises on purpose.

::

    SdqueueError
    ├── ConfigurationError (ValueError)      a setting, a URL or an agent name that cannot work
    ├── InvalidTurn (ValueError)             a message that is no turn
    ├── SessionError
    │   ├── VersionConflict                  the stored session is not the one this save was made from
    │   ├── SessionClosed                    a handle or a stream used outside its ``acquire`` block
    │   ├── StoreUnavailable                 the session store cannot be reached
    │   ├── RecordError
    │   │   ├── RecordTooNew                 written by a newer release
    │   │   ├── RecordSealed                 sealed, and what opens it is not here
    │   │   │   └── WrongKey                 its master key is missing here, or is another one
    │   │   ├── RecordCorrupt                not a record
    │   │   └── StateMismatch                the agent was changed and has no longer what its saved state needs
    │   └── LockError
    │       ├── LockTimeout (TimeoutError)   not got in the time given
    │       └── LockLost                     gone while it was held; the turn was stopped
    ├── AgentError
    │   ├── AgentResultError (TypeError)     the agent returned something that is no answer
    │   ├── UnknownRoute                     the route that chose a session's agent is not configured any more
    │   ├── TurnTimeout (TimeoutError)       the agent did not answer within the turn's deadline
    │   ├── ModelAnswerError                 a model's server said something that is no answer
    │   ├── ModelInterrupted (ConnectionError)  a model's stream ended before its answer did
    │   └── TooManyRounds                    a model did not come to an end of asking for tools
    ├── BrokerError
    │   ├── BrokerUnavailable (ConnectionError)
    │   ├── AccessRefused                    the broker's user has not the right to do it
    │   ├── PublishRejected                  the broker refused the message (a full queue, a policy)
    │   ├── Unroutable                       no queue takes the message
    │   └── TopologyError
    │       ├── TopologyMissing              ``sdqueue topology apply`` has not been run
    │       ├── TopologyMismatch             what exists on the broker does not fit
    │       └── ReshardingFailed             the number of partitions could not be changed, or not yet
    └── ReplyError
        ├── ReplyTimeout (TimeoutError)      no reply in the time given; the turn stays queued
        ├── StreamNotFound (LookupError)     there is no log of this turn's streamed answer, or no more
        ├── InvalidOffset (ValueError)       a text that is no place in a stream
        └── TurnFailed                       the reply is an ``error`` reply

Each message says what was wrong, with which value, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdqueue.messages import OutboundReply


class SdqueueError(Exception):
    """The root of the tree: catching it catches everything that sdqueue raises on purpose."""


class ConfigurationError(SdqueueError, ValueError):
    """A setting, a URL or an agent name cannot work; the message names it and its value."""


class InvalidTurn(SdqueueError, ValueError):
    """A message is no turn, by the wire contract.

    Parameters:
        reason: a short, stable slug for filters and metrics, such as ``not-json`` or ``invalid-field``.
        detail: a sentence for people: what was wrong, with which value, and what is expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class SessionError(SdqueueError):
    """Something is wrong with one session; others are not touched."""


class VersionConflict(SessionError):
    """Another process has saved or deleted the session since it was loaded; nothing was changed.

    Load the session again and repeat the work on what is stored now.
    """

    def __init__(self, session_id: str, *, expected: int, found: int | None) -> None:
        stored = "no record" if found is None else f"version {found}"
        if found == expected:
            stored = f"version {found} of another life: the session was deleted and created anew"
        super().__init__(
            f"session {session_id!r}: this save was made from version {expected}, but the store has {stored}; "
            "load the session again and repeat the turn on it"
        )
        self.session_id = session_id
        self.expected = expected
        self.found = found


class SessionClosed(SessionError):
    """A handle or a stream was used after its ``acquire`` block ended; do it inside the block."""


class StoreUnavailable(SessionError):
    """The session store or the lock service cannot be reached; nothing was changed that is known of."""


class RecordError(SessionError):
    """A stored session cannot be read."""


class RecordTooNew(RecordError):
    """The record was written by a newer release of sdqueue; upgrade this process."""


class RecordSealed(RecordError):
    """The session is sealed with a key that is not here (or must be sealed, and is not). Nothing of it was changed.

    No fault of the session: it can be read where the keys are right, so turns of it wait. See docs/encryption.md.
    """


class WrongKey(RecordSealed):
    """The master key that the session's key is wrapped with is not in this process's keyring, or is another one."""


class RecordCorrupt(RecordError):
    """The stored bytes are not a session record."""


class StateMismatch(RecordError):
    """The saved state of an agent does not fit the agent of today, such as a flow without the node it stands at.

    Give the agent back what the message names, and the session goes on; or reset it, which needs no saved state.
    """


class LockError(SessionError):
    """A session lock could not be had or kept."""


class LockTimeout(LockError, TimeoutError):
    """The lock was not got in the time given; somebody else still holds it."""


class LockLost(LockError):
    """The lock could not be renewed, so the running turn was stopped before somebody else may start.

    Nothing of the half turn is saved.
    """


class AgentError(SdqueueError):
    """The agent failed at a turn."""


class AgentResultError(AgentError, TypeError):
    """The agent returned something that is no answer; return a ``TurnResult``, a string or a dict with ``text``."""


class UnknownRoute(AgentError):
    """The session was begun with the agent of a route that is not configured any more."""


class TurnTimeout(AgentError, TimeoutError):
    """The agent did not answer within the turn's deadline (``SDQUEUE_TURN_TIMEOUT_S`` or ``deadline_s``)."""


class ModelAnswerError(AgentError):
    """A model's server said something that is no answer, or gave up in the middle of one.

    Parameters:
        detail: what it said.
        status_code: the HTTP status that stands for it, where it told one; a retry policy goes by that.
    """

    def __init__(self, detail: str, *, status_code: int | None = None) -> None:
        super().__init__(detail)
        self.status_code = status_code


class ModelInterrupted(AgentError, ConnectionError):
    """A model's stream ended before its answer did; trying again may help."""


class TooManyRounds(AgentError):
    """A model asked for tools again and again, up to ``LLMOptions.max_rounds``; nothing of the turn is kept."""


class BrokerError(SdqueueError):
    """The broker refused something or cannot be reached."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """The broker cannot be reached, or did not confirm in the time given."""


class AccessRefused(BrokerError):
    """The broker knows the user, who has not the right; the message says which right, on what, and what to do."""


class PublishRejected(BrokerError):
    """The broker refused the message: its queue is full or a policy forbids it. Slow down and try again."""


class Unroutable(BrokerError):
    """No queue takes a message with this routing key."""


class TopologyError(BrokerError):
    """The exchanges and queues on the broker are not what this release needs."""


class TopologyMissing(TopologyError):
    """The exchanges and queues are not (or not all) declared; run ``sdqueue topology apply``."""


class TopologyMismatch(TopologyError):
    """Something of the same name exists with other properties; the message names the difference."""


class ReshardingFailed(TopologyError):
    """The number of partitions could not be changed, or not to the end; the message says what to do.

    No turn is lost, and none is out of order: what has begun is brought to its end by beginning it again.
    """


class ReplyError(SdqueueError):
    """A question to the pool has no good answer."""


class ReplyTimeout(ReplyError, TimeoutError):
    """No final reply came in the time given.

    The turn stays queued and will be answered on the replies exchange; asking again with the same turn id
    returns that answer and does not run the turn twice.
    """

    def __init__(self, turn_id: str, timeout_s: float) -> None:
        super().__init__(
            f"no reply to turn {turn_id!r} within {timeout_s:g} s; it stays queued: ask again with id={turn_id!r} "
            "to wait for the same answer, and see whether a consumer runs and what it logs"
        )
        self.turn_id = turn_id
        self.timeout_s = timeout_s


class StreamNotFound(ReplyError, LookupError):
    """There is no log of this turn's streamed answer.

    Logs are kept for some minutes after the answer (``SDQUEUE_STREAM_TTL_S``). Asking again with the same turn id
    returns the final reply, for much longer.
    """

    def __init__(self, session_id: str, turn_id: str, why: str) -> None:
        super().__init__(
            f"there is no stream of turn {turn_id!r} of session {session_id!r}: {why}. To get the final reply, ask "
            f"again with id={turn_id!r}; and look whether SDQUEUE_STREAM_URL is here what it is for the consumers"
        )
        self.session_id = session_id
        self.turn_id = turn_id


class InvalidOffset(ReplyError, ValueError):
    """A text names no place in a stream; the message shows it."""


class TurnFailed(ReplyError):
    """The turn was answered with an ``error`` reply, kept in ``.reply``."""

    def __init__(self, reply: OutboundReply) -> None:
        super().__init__(f"turn {reply.turn_id!r} of session {reply.session_id!r} failed: {reply.text}")
        self.reply = reply
