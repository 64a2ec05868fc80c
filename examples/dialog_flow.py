"""A dialog state machine of superdialog, each turn answered by whichever consumer is free. Run it::

    cd examples && OPENAI_API_KEY=… sdqueue dev --agent dialog_flow:make_machine

The model decides which edge the customer's words take and says what the node instructs; what may come after what is
the flow's business. Where the conversation stands is saved with every turn.
"""

import os

from superdialog import DialogMachine
from superdialog.flow.models import ConversationFlow

FLOW = ConversationFlow.model_validate(
    {
        "system_prompt": "You take orders for pizza. Be brief.",
        "initial_node": "order",
        "nodes": [
            {
                "id": "order",
                "name": "order",
                "instruction": "Ask which pizza the customer wants.",
                "edges": [
                    {
                        "id": "chosen",
                        "condition": "the customer has chosen a pizza",
                        "target_node_id": "confirm",
                        "input_schema": {"type": "object", "properties": {"pizza": {"type": "string"}}},
                    }
                ],
            },
            {
                "id": "confirm",
                "name": "confirm",
                "instruction": "Repeat the order and ask whether it is right.",
                "edges": [{"id": "agreed", "condition": "the customer agrees", "target_node_id": "done"}],
            },
            {"id": "done", "name": "done", "is_final": True, "static_text": "It is in the oven."},
        ],
    }
)


def make_machine() -> DialogMachine:
    """What a consumer calls for each session that it takes up."""
    return DialogMachine(FLOW, llm=f"openai/{os.environ.get('MODEL', 'gpt-4o-mini')}")
