"""``sdqueue follow``: a streamed answer, from any place in it, by whoever comes late."""

from __future__ import annotations

from typing import Annotated

import typer

from sdqueue.cli.options import KEYS, Given, JsonOption, require_shared_broker, takes_settings
from sdqueue.cli.send import print_stream
from sdqueue.client import REPLY_TIMEOUT_S, Client
from sdqueue.settings import Settings


@takes_settings("broker_url", "namespace", "store_url", "stream_url", *KEYS)
async def follow(
    given: Given,
    session: Annotated[str, typer.Argument(help="The session's id.")],
    turn_id: Annotated[str, typer.Argument(help="The turn's id, as send has printed it.")],
    after: Annotated[
        str, typer.Option(help="The offset of the last delta that was seen (metadata.stream.offset).")
    ] = "0",
    timeout: Annotated[float, typer.Option(help="Seconds of silence after which it gives up.")] = REPLY_TIMEOUT_S,
    as_json: JsonOption = False,
) -> None:
    """Print the answer to a turn that somebody has sent with stream: what was said already, then what is being said.

    It asks nothing and sends nothing. An answer can be followed from the time its turn begins until some minutes after
    its end (SDQUEUE_STREAM_TTL_S).

    Examples:

        sdqueue follow user-42 7c4c1b0d

        sdqueue follow user-42 7c4c1b0d --after 1-12 --json

    The exit code is 1 when there is no such stream, when no more comes in time, and when the turn failed.
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    async with Client.from_settings(settings) as client:
        replies = client.read_stream(session, turn_id, after=after, timeout=timeout, raise_on_error=False)
        await print_stream(replies, as_json)
