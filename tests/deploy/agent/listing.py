"""An agent that answers with all that it was told in its session.

So every reply shows what was lost, came twice or out of order before it. A text is ``<mark> <act> <milliseconds to
think>``, as tests/chaos plans it, or anything else.
"""

import asyncio
import json

from sdqueue.agents import ChatMessage


async def answer(text: str, history: list[ChatMessage]) -> str:
    said = [message.content for message in history if message.role == "user"]
    words = text.split(" ")
    if len(words) == 3:
        await asyncio.sleep(int(words[2]) / 1000)
    return json.dumps([told.split(" ")[0] for told in (*said, text)])
