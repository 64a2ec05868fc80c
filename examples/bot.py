"""An own agent behind the queue. Run it: ``cd examples && sdqueue dev --agent bot:answer``."""

from sdqueue.agents import ChatMessage


async def answer(text: str, history: list[ChatMessage]) -> str:
    """The whole agent: what was said, and the conversation before it."""
    said = [message.content for message in history if message.role == "user"]
    before = f" Before that you said {said[-1]!r}." if said else ""
    return f"You said {text!r}.{before}"
