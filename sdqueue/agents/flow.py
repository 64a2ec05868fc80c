"""FlowState: where a dialog state machine stands, as superdialog's ``DialogMachine`` reports it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sdqueue.errors import RecordCorrupt


@dataclass
class FlowState:
    """The position and slots of a dialog state machine.

    Field for field that of superdialog, so that its agents load it without knowing the difference.
    """

    current_node_id: str = ""
    userdata: dict[str, Any] = field(default_factory=dict)
    node_slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    node_spoken_flags: dict[str, bool] = field(default_factory=dict)
    visit_count: dict[str, int] = field(default_factory=dict)
    transition_log: list[Any] = field(default_factory=list)

    def apply_to(self, ctx: Any) -> Any:
        """Bring the context of a machine to this state; called by superdialog's machines to load it.

        Parameters:
            ctx: has attributes of these names; it gets copies, so that it does not change this state as it goes on.
                Where its ``data`` is a pydantic model with a ``transition_log``, the log's entries become what that
                says they are: a machine fails over the dicts that they were stored as.

        Returns:
            The same context.

        Raises:
            RecordCorrupt: the stored log is none of this machine's.
        """
        for each in fields(FlowState):
            setattr(ctx, each.name, copy.deepcopy(getattr(self, each.name)))
        model: type = type(getattr(ctx, "data", None))
        log = _log_of(model)
        if log is not None:
            try:
                ctx.transition_log = log.validate_python(ctx.transition_log)
            except ValidationError as error:
                where = ".".join(map(str, error.errors()[0]["loc"]))
                raise RecordCorrupt(
                    f"the stored transition_log does not fit this machine: entry {where} is wrong; another release of "
                    "superdialog may have written it"
                ) from None
        return ctx

    def to_flow_context_merged_with(self, ctx: Any) -> Any:
        """The same as :meth:`apply_to`, under superdialog's other name for it."""
        return self.apply_to(ctx)


@lru_cache
def _log_of(model: type) -> TypeAdapter[list[Any]] | None:
    described = getattr(model, "model_fields", {}).get("transition_log")
    return None if described is None else TypeAdapter(described.annotation)
