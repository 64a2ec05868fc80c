"""MachineKeeper: the whole state of a superdialog ``DialogMachine``.

superdialog's own ``FlowState`` has the node, the slots and the visits. Lost with it are the turns in the node and its
loops (so that ``max_turns`` never falls back), the interrupted intents, what was completed and fired, the language, and
what actions have put into the environment. All that is in the machine's context and in private names around it; the
releases that they are known of are in :mod:`sdqueue.agents.superdialog.stamp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, get_args

from pydantic import BaseModel
from superdialog.machine.models import FlowContext, TransitionRecord

from sdqueue.agents.chat import ChatContext
from sdqueue.agents.flow import FlowState
from sdqueue.agents.superdialog.stamp import check_stamp, installed, stamp, unreadable
from sdqueue.agents.superdialog.values import decode_value, encode_value
from sdqueue.errors import ConfigurationError, RecordCorrupt, StateMismatch

KIND: Final = "superdialog.DialogMachine"

_ELSEWHERE: Final = {"history", "transition_log", "user_state"}
"""Fields of a context that are not in the state: the conversation and the log of transitions, which the session has in
``chat_ctx`` and ``flow_state`` and which grow with it, and the application's own object."""


class MachineKeeper:
    """Dumps and loads the state of one ``DialogMachine``.

    A machine that takes something up is built at once, not at its next turn: one that waits would bring what it was
    given back into the next flow after ``switch_flow`` or ``reset``.

    Parameters:
        agent: the machine.

    Raises:
        ConfigurationError: it is not built as those of the releases of superdialog that are known.
    """

    def __init__(self, agent: Any) -> None:
        missing = [name for name in ("_machine", "_flowset", "_pending_system_messages") if not hasattr(agent, name)]
        if missing:
            raise ConfigurationError(
                f"the DialogMachine of superdialog {installed()} has no {missing[0]}, so its state cannot be saved; "
                "pip install 'sdqueue[superdialog]' takes a release that is known"
            )
        self._agent = agent
        self._loaded = False

    @property
    def flow_state(self) -> FlowState:
        """The part of the state that superdialog's own sessions keep, as JSON values but for its log's records."""
        state = self._agent.flow_state
        return FlowState(
            current_node_id=state.current_node_id,
            userdata=_encoded_items(state.userdata, "variable"),
            node_slots=_encoded_items(state.node_slots, "the slots of node"),
            node_spoken_flags=dict(state.node_spoken_flags),
            visit_count=dict(state.visit_count),
            transition_log=list(state.transition_log),
        )

    def dump_state(self) -> dict[str, Any]:
        """Everything needed to go on in another process, as JSON values, but for what the session has anyway.

        Raises:
            RecordError: a tool or a slot has a value that could not come back as what it is.
        """
        agent, machine = self._agent, self._agent._machine
        state = stamp(KIND) | {
            "flow": agent._active_flow_name,
            "pending": list(agent._pending_system_messages),
            "traversal": self._traversal(),
            "context": None,
        }
        if machine is not None:
            state["context"] = _dumped(machine.context)
            state["notes"] = _notes_at_end(machine)
            state["entered"] = getattr(machine, "_initial_on_enter_fired", False)
            state["env"] = self._changed_env()
            state["fetched"] = encode_value(getattr(agent._adapter, "_get_cache", {}), "the answer to an action")
        return state

    def load_state(self, state: Any) -> None:
        """Go on from what :meth:`dump_state` returned.

        Raises:
            RecordTooNew: a newer superdialog or a newer release of sdqueue wrote it.
            RecordCorrupt: it is no state of a DialogMachine.
            StateMismatch: the flow was edited, and has no longer what the session needs.
        """
        written_by = check_stamp(state, KIND)
        agent = self._agent
        with _damage():
            flow, pending, traversal, fields = (state[name] for name in ("flow", "pending", "traversal", "context"))
            agent._pending_system_messages[:] = pending
            if traversal is not None and agent._traversal_dir is not None:
                turns, started_at, agent._traversal_saved = traversal
                agent._chat_turns = decode_value(turns)
                agent._session_started_at = None if started_at is None else datetime.fromisoformat(started_at)
        self._use_flow(flow)
        if fields is not None:
            with _damage():
                context = _restored(FlowContext, fields, written_by)
                entered, env, fetched = state["entered"], dict(state["env"]), decode_value(state["fetched"])
                context.data.history = [{"role": "system", "content": note} for note in state["notes"]]
            self._check_fit(self._built(), context)
            machine, adapter = agent._machine, agent._adapter
            machine.context, machine.state = context, context.state.current_node_id
            if entered:
                machine._initial_on_enter_fired = True
            adapter._env_vars.update(env)
            if hasattr(adapter, "_get_cache"):
                adapter._get_cache = fetched
        self._loaded = True

    def load_chat_ctx(self, ctx: Any) -> None:
        """Go on from this conversation.

        What it ends with and the machine had not taken in are notes for its next turn, be that in another flow.
        """
        agent, machine = self._agent, self._built()
        items, waiting = list(ctx.items), agent._pending_system_messages
        taken_in = min(_length_without_notes(items) + len(_notes_at_end(machine)), len(items))
        notes = [item.content for item in items[taken_in:]]
        # The last ones that waited when the machine was saved are the first ones here, where they came by the handle.
        known = next((n for n in range(len(waiting), 0, -1) if notes[:n] == waiting[-n:]), 0)
        waiting.extend(notes[known:])
        machine.load_chat_ctx(ChatContext(items[:taken_in]))
        agent._pending_chat_ctx = None

    def load_flow_state(self, state: Any) -> None:
        """Go on from superdialog's own part of the state; where the whole was loaded, only its log is taken.

        Raises:
            StateMismatch: the flow was edited, and has no longer the node at which the session stands.
        """
        machine = self._built()
        log = [
            TransitionRecord.model_validate(record) if isinstance(record, dict) else record
            for record in state.transition_log
        ]
        if self._loaded:
            machine.context.transition_log = log
            return
        if state.current_node_id:
            self._check_nodes("stands at", [state.current_node_id])
        machine.load_flow_state(
            FlowState(
                current_node_id=state.current_node_id or machine.state,
                userdata=decode_value(state.userdata),
                node_slots=decode_value(state.node_slots),
                node_spoken_flags=state.node_spoken_flags,
                visit_count=state.visit_count,
                transition_log=log,
            )
        )
        self._agent._pending_flow_state = None

    def _use_flow(self, name: str) -> None:
        agent = self._agent
        if name not in agent._flowset:
            raise StateMismatch(
                f"the session is in flow {name!r}, which the machine's FlowSet has no longer (it has "
                f"{', '.join(map(repr, agent._flowset.names()))}); add a flow of that name again, or reset the session"
            )
        if agent._active_flow_name != name:
            agent._active_flow_name, agent._machine, agent._adapter = name, None, None

    def _built(self) -> Any:
        """The machine behind the facade."""
        if self._agent._machine is not None:
            return self._agent._machine
        building = self._agent._ensure_machine()
        try:
            building.send(None)
        except StopIteration as built:
            return built.value
        building.close()
        raise ConfigurationError(
            "this DialogMachine waits for something while it is built, so that no state can be loaded into it; "
            "let _ensure_machine only build, and fetch what it needs in the turn"
        )

    def _traversal(self) -> list[Any] | None:
        agent = self._agent
        if agent._traversal_dir is None:
            return None  # nobody reads it, and it repeats the conversation
        started = agent._session_started_at
        turns = encode_value(agent._chat_turns, "a turn of the traversal")
        return [turns, None if started is None else started.isoformat(), agent._traversal_saved]

    def _changed_env(self) -> dict[str, str]:
        """What actions have put into the environment. The flow's own part, keys and all, comes from the flow again."""
        original = self._agent._flowset[self._agent._active_flow_name].environment_variables
        env = self._agent._adapter._env_vars
        return {name: value for name, value in env.items() if name not in original or original[name] != value}

    def _check_fit(self, machine: Any, context: FlowContext) -> None:
        state = context.state
        self._check_nodes("stands at", [state.current_node_id])
        self._check_nodes("is to return to", [frame.node_id for frame in state.intent_stack])
        edge, node = state.pending_edge_id, state.current_node_id
        if edge is not None and edge not in machine._machine.get_triggers(node):
            raise StateMismatch(
                f"the session waits at node {node!r} of flow {self._agent._active_flow_name!r} to go along edge "
                f"{edge!r}, which does not lead on from there any longer; add an edge of that name again, or reset the "
                "session"
            )

    def _check_nodes(self, how: str, nodes: Iterable[str]) -> None:
        agent = self._agent
        for node in nodes:
            if node not in agent._machine._node_map:
                raise StateMismatch(
                    f"the session {how} node {node!r} of flow {agent._active_flow_name!r}, which the flow has no "
                    "longer; add a node of that name again, if only to lead on from there, or reset the session"
                )


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordCorrupt(
            f"the stored state of the {KIND} is damaged: {type(error).__name__}; reset the session"
        ) from None


def _dumped(model: BaseModel) -> dict[str, Any]:
    """The fields of a model of superdialog's, those included that it leaves out itself, with the types of values."""
    fields: dict[str, Any] = {}
    for name in type(model).model_fields:
        if name in _ELSEWHERE:
            continue
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            fields[name] = _dumped(value)
        elif isinstance(value, list) and all(isinstance(item, BaseModel) for item in value):
            fields[name] = [_dumped(item) for item in value]
        elif name in ("variables", "node_slots"):
            fields[name] = _encoded_items(value, "variable" if name == "variables" else "the slots of node")
        else:
            fields[name] = encode_value(value, f"{name} of the dialog machine")
    return fields


def _restored(kind: type[Any], fields: dict[str, Any], written_by: str) -> Any:
    """A model of these fields. Not validated: that would turn values into others, and a dict into what it is not."""
    values = {}
    for name, value in fields.items():
        field = kind.model_fields.get(name)
        if field is None:
            raise unreadable(written_by, f"a {kind.__name__} has the unknown field {name!r}")
        inner = next((arg for arg in get_args(field.annotation) if _is_model(arg)), None)
        if _is_model(field.annotation):
            values[name] = _restored(field.annotation, value, written_by)
        elif inner is not None:
            values[name] = [_restored(inner, item, written_by) for item in value]
        else:
            values[name] = decode_value(value)
    return kind.model_construct(**values)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _encoded_items(values: dict[Any, Any], what: str) -> Any:
    for name, value in values.items():
        encode_value(value, f"{what} {name!r} of the dialog machine")  # for the name in the error
    return encode_value(values, what)


def _notes_at_end(machine: Any) -> list[str]:
    items = machine.chat_ctx.items
    return [item.content for item in items[_length_without_notes(items) :]]


def _length_without_notes(items: list[Any]) -> int:
    return next((n for n in range(len(items), 0, -1) if items[n - 1].role != "system"), 0)
