"""FlowState: where a dialog state machine stands, as superdialog's ``DialogMachine`` reports it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any


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

        Returns:
            The same context.
        """
        for each in fields(FlowState):
            setattr(ctx, each.name, copy.deepcopy(getattr(self, each.name)))
        return ctx
