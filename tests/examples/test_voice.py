"""The voice pattern: nothing outlives a call, and a caller who interrupts is remembered as far as he listened."""

from __future__ import annotations

import asyncio
import sys

from tests.examples.served import EXAMPLES


async def test_a_call_keeps_what_was_heard_and_nothing_outlives_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "voice.py"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    rest = "our opening hours are nine to five on weekdays."
    assert out.decode().splitlines() == [
        line
        for call in (1, 2)
        for line in (f"call {call}: Answer 1 to", f"call {call}: Answer 2 to 'on Sundays?': {rest}")
    ]
