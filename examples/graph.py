"""A LangGraph graph that asks back in the middle of a turn, and goes on in whichever process gets the answer. Run it::

    cd examples && sdqueue dev --agent graph:graph

The graph's checkpoint is saved with the turn, so a process that dies leaves no half step behind.
"""

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


class Order(MessagesState):
    """What the nodes share: the conversation, and what was ordered so far."""

    pizza: str
    count: int


def choose(state: Order) -> dict[str, str]:
    """Take the order from the customer's words."""
    return {"pizza": str(state["messages"][-1].content)}


def ask(state: Order) -> dict[str, int]:
    """Ask how many; the turn ends here, and the next one goes on here."""
    answer = interrupt(f"How many {state['pizza']}?")
    while not answer.strip().isdigit():
        answer = interrupt(f"{answer!r} is no number. How many {state['pizza']}?")
    return {"count": int(answer)}


def confirm(state: Order) -> dict[str, list[AIMessage]]:
    """Say what was ordered."""
    return {"messages": [AIMessage(f"{state['count']} {state['pizza']}, coming up.")]}


graph = (
    StateGraph(Order)
    .add_node("choose", choose)
    .add_node("ask", ask)
    .add_node("confirm", confirm)
    .add_edge(START, "choose")
    .add_edge("choose", "ask")
    .add_edge("ask", "confirm")
    .add_edge("confirm", END)
    .compile(checkpointer=InMemorySaver())
)
