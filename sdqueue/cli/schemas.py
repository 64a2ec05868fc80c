"""The JSON Schemas of the wire contract, generated from the models; ``sdqueue/schemas/`` holds them committed."""

from __future__ import annotations

import json
from typing import Any, Final

from sdqueue.messages import InboundTurn, OutboundReply, WireModel

WIRE_SCHEMAS: Final[dict[str, type[WireModel]]] = {"inbound-turn": InboundTurn, "outbound-reply": OutboundReply}
"""The bodies that travel, by the name of their schema's file."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of a body."""
    return {"$schema": DIALECT} | WIRE_SCHEMAS[name].model_json_schema(mode="validation")


def schema_text(name: str) -> str:
    """The JSON Schema as its file holds it."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"
