"""The agent that consumers run; put yours in its place, and its name into SDQUEUE_AGENT."""

from sdqueue.agents import ChatMessage


async def answer(text: str, history: list[ChatMessage]) -> str:
    """Answer a turn; ``history`` is the conversation before it."""
    said = [message.content for message in history if message.role == "user"]
    before = f" Before that you said {said[-1]!r}." if said else ""
    return f"You said {text!r}.{before}"
