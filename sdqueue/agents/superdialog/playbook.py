"""PlaybookKeeper: the whole state of a superdialog ``PlaybookAgent``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from superdialog.playbook.events import Event, UtteranceEvent

from sdqueue.agents.superdialog.stamp import check_stamp, installed, stamp, unreadable
from sdqueue.agents.superdialog.values import decode_value, encode_value
from sdqueue.errors import ConfigurationError, RecordCorrupt, StateMismatch

KIND: Final = "superdialog.PlaybookAgent"

_OF_AGENT: Final = ("_greeting_checkpoint", "_compacted_through", "_started_at", "_traversal_saved")
_OF_SUPERVISOR: Final = ("_last_fired_turn", "_last_reviewed_version")
_ROLES: Final = ("system", "user", "assistant")


class PlaybookKeeper:
    """Dumps and loads the state of one ``PlaybookAgent``.

    That is its event log, of which everything else is a fold: step, slots, results of tools, what was said. Beside it
    superdialog keeps from 0.3 how far the conversation is summarised, where it greeted, and when its supervisor last
    looked; without these, a resumed agent summarises and reviews again what it has already.

    Secrets: a playbook's ``env`` stands in the log. What still has the playbook's value is stored by its name alone
    and comes back with the value that the playbook then has; what a tool has put there is stored as it is.

    Parameters:
        agent: the agent.

    Raises:
        ConfigurationError: it is not built as those of the releases of superdialog that are known.
    """

    def __init__(self, agent: Any) -> None:
        if not hasattr(getattr(agent, "runtime", None), "_pb"):
            raise ConfigurationError(
                f"the PlaybookAgent of superdialog {installed()} has no runtime with a playbook, so its state cannot "
                "be saved; pip install 'sdqueue[superdialog]' takes a release that is known"
            )
        self._agent = agent
        self._playbook = agent.runtime._pb

    def dump_state(self) -> dict[str, Any]:
        """Everything needed to go on in another process, as JSON values.

        Raises:
            RecordError: a tool or a slot has a value that could not come back as what it is.
        """
        supervisor = getattr(self._agent, "_supervisor", None)
        return stamp(KIND) | {
            "events": [self._dumped(event) for event in self._agent.event_log.events],
            "agent": _attributes(self._agent, _OF_AGENT),
            "supervisor": _attributes(supervisor, _OF_SUPERVISOR),
        }

    def load_state(self, state: Any) -> None:
        """Go on from what :meth:`dump_state` returned.

        Raises:
            RecordTooNew: a newer superdialog or a newer release of sdqueue wrote it.
            RecordCorrupt: it is no state of a PlaybookAgent.
            StateMismatch: the playbook was edited, and has no longer the step at which the session stands.
        """
        written_by = check_stamp(state, KIND)
        log = self._agent.event_log
        try:
            own, supervisors = dict(decode_value(state["agent"])), dict(decode_value(state["supervisor"]))
            events = self._rebuilt(state["events"], written_by)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RecordCorrupt(
                f"the stored state of the {KIND} is damaged: {type(error).__name__}; reset the session"
            ) from None
        # The log of the agent stays, with new contents: whoever the factory has subscribed to it stays subscribed.
        log.events[:] = events
        self._agent.load_event_log(log)
        _set_attributes(self._agent, _OF_AGENT, own)
        _set_attributes(getattr(self._agent, "_supervisor", None), _OF_SUPERVISOR, supervisors)
        self._check_fit()

    def load_chat_ctx(self, ctx: Any) -> None:
        """Add to the log what was said since: a note of ``assist``, and what was heard of a broken-off answer.

        The agent's own ``load_chat_ctx`` begins a new log of nothing but the conversation. Here the log stays; what
        precedes its end in the conversation may have been shortened or summarised.
        """
        items = [(item.role, item.content) for item in ctx.items if item.role in _ROLES]
        known = [(item.role, item.content) for item in self._agent.chat_ctx.items]
        for role, text in items[len(items) - _count_new(items, known) :]:
            self._agent.event_log.append(UtteranceEvent(role=role, text=text))

    def _dumped(self, event: Any) -> dict[str, Any]:
        fields = {}
        for name, field in type(event).model_fields.items():
            value = getattr(event, name)
            # The version is the place in the list, and what is None by default says nothing.
            if name != "version" and not (value is None and field.default is None):
                fields[name] = encode_value(value, f"{name} of a {event.type} event of the playbook")
        if event.type == "env_write" and self._playbook.env.get(event.key) == event.value:
            del fields["value"]
        return fields

    def _rebuilt(self, stored: Sequence[dict[str, Any]], written_by: str) -> list[Any]:
        fields = []
        for number, event in enumerate(stored, 1):
            fields.append(decode_value(event) | {"version": number})
            if event["type"] == "env_write" and "value" not in event:
                # An empty one where the playbook has dropped it: to templates and rules that is the same as none.
                fields[-1]["value"] = self._playbook.env.get(event["key"], "")
        try:
            events = _adapter().validate_python(fields)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            kind = fields[int(first["loc"][0])]["type"]
            raise unreadable(written_by, f"event of type {kind!r}: {first['type']}") from None
        for event, known in zip(fields, events, strict=True):
            if unknown := event.keys() - type(known).model_fields.keys():
                raise unreadable(written_by, f"a {known.type} event has the unknown field {min(unknown)!r}")
        return list(events)

    def _check_fit(self) -> None:
        state, steps = self._agent.runtime.state, self._playbook.checkpoint_ids()
        needed = {"stands at": [state.checkpoint_id], "is to return to": getattr(state, "resume_stack", ())}
        for how, places in needed.items():
            for place in places:
                if place is not None and place not in steps:
                    raise StateMismatch(
                        f"the session {how} checkpoint {place!r}, which the playbook has no longer; add a checkpoint "
                        "of that name again, if only to lead on from there, or reset the session"
                    )


@cache
def _adapter() -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[Event])


def _attributes(owner: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: encode_value(getattr(owner, name), name) for name in names if hasattr(owner, name)}


def _set_attributes(owner: Any, names: Sequence[str], values: dict[str, Any]) -> None:
    for name in names:
        if name in values and hasattr(owner, name):  # one or the other may be of a superdialog that does without
            setattr(owner, name, values[name])


def _count_new(items: Sequence[tuple[str, str]], known: Sequence[tuple[str, str]]) -> int:
    """How many of the last items stand behind all that is known; the two agree before these as far as both go back."""
    best, longest = len(items), 0
    for new in range(len(items)):
        old = len(items) - new
        both = min(old, len(known))
        same = next((n for n in range(both) if items[old - 1 - n] != known[-1 - n]), both)
        if same > longest:
            best, longest = new, same
        if both and same == both:
            break
    return best
