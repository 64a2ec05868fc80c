"""MachineKeeper: the whole state of a superdialog ``DialogMachine``."""

from __future__ import annotations

from typing import Any


class MachineKeeper:
    """Dumps and loads the state of one ``DialogMachine``."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def dump_state(self) -> Any:
        """Everything needed to go on in another process, as JSON values."""
        return None

    def load_state(self, state: Any) -> None:
        """Go on from what :meth:`dump_state` returned."""
