"""An agent for the tests of images: mounted into a container, or copied into an image."""

import asyncio
import os
import subprocess

from sdqueue.agents import ChatMessage


async def answer(text: str, history: list[ChatMessage]) -> str:
    """Do what the text says, and tell it."""
    if text == "slow":
        print("begun", flush=True)
        await asyncio.sleep(5)
    elif text == "die":
        os._exit(1)
    elif text == "leave a child":
        subprocess.Popen(["sh", "-c", "sleep 0.5 & "]).wait()
    return f"you said {text}"
