"""LLMOptions: how a model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdqueue.errors import ConfigurationError

_OURS: Final = frozenset({"model", "messages", "tools", "stream"})


@dataclass(frozen=True)
class LLMOptions:
    """How a model is asked.

    Parameters:
        parameters: fields of the request as the server knows them, sent as they are: ``temperature``, ``top_p``,
            ``max_completion_tokens``, ``seed``, ``stop``, ``tool_choice``, ``parallel_tool_calls`` and whatever else.
        max_rounds: how often the model may be asked during one turn; each round but the last runs tools.
        request_timeout_s: seconds without a sign of the server after which a request has failed, passingly. The whole
            turn ends besides with ``SDQUEUE_TURN_TIMEOUT_S``.
        tool_timeout_s: seconds that a tool may take, unless it says otherwise.

    Raises:
        ConfigurationError: a number is not positive, or a parameter is one that the agent itself sets.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_rounds: int = 8
    request_timeout_s: float = 60.0
    tool_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_rounds", "request_timeout_s", "tool_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"LLMOptions: {name} is {getattr(self, name)!r}; give a number above 0")
        if taken := sorted(_OURS & self.parameters.keys()):
            raise ConfigurationError(
                f"LLMOptions: the parameters {', '.join(taken)} are set by the agent; give the model and the tools to "
                "LLMAgent, and ask for a stream by the turn"
            )
