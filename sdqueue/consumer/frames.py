"""Frames: what a consumer and its child processes say to each other, a JSON value at a time."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, Final

_SIZE: Final = struct.Struct("!Q")


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next value; ``None`` where the other side is gone, or says what is no value."""
    try:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        value: dict[str, Any] = json.loads(await reader.readexactly(size))
    except (EOFError, OSError, ValueError):
        return None
    return value


async def write_frame(writer: asyncio.StreamWriter, text: str) -> None:
    """Say a value, given as JSON text.

    Raises:
        OSError: the other side is gone.
    """
    put_frame(writer, text)
    await writer.drain()


def put_frame(writer: asyncio.StreamWriter, text: str) -> None:
    """Say a value without waiting, where the other side is known to listen."""
    body = text.encode()
    writer.write(_SIZE.pack(len(body)))
    writer.write(body)
