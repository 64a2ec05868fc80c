"""``sdqueue chat``: talk to the running pool."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated

import typer

from sdqueue.backends import opened_sessions
from sdqueue.cli.conversation import Conversation
from sdqueue.cli.lines import Lines
from sdqueue.cli.options import BROKER, KEYS, STORE, Given, require_shared_broker, takes_settings
from sdqueue.client import REPLY_TIMEOUT_S, Client
from sdqueue.settings import Settings


@takes_settings(*BROKER, *STORE, *KEYS, "max_text_bytes")
async def chat(
    given: Given,
    session: Annotated[str, typer.Argument(help="The session's id.")] = "chat",
    timeout: Annotated[
        float, typer.Option(help="Seconds of silence after which a reply is given up.")
    ] = REPLY_TIMEOUT_S,
    channel: Annotated[str, typer.Option(help="The channel of the turns.")] = "default",
) -> None:
    """Talk to the running pool, one turn a line; /help lists the commands.

    Without a terminal it reads standard input line by line, prints one reply after the other, and ends with the
    input; the exit code is 1 when a turn failed.

    Examples:

        sdqueue chat user-42

        printf 'my name is Ada\\nwhat is my name?\\n' | sdqueue chat user-42
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    async with AsyncExitStack() as stack:
        store, _ = await stack.enter_async_context(opened_sessions(settings))  # not reached before it is asked
        client = await stack.enter_async_context(Client.from_settings(settings))
        lines = stack.enter_context(Lines())
        conversation = Conversation(client, lines, store.load, session=session, channel=channel, timeout=timeout)
        await conversation.run()
        if conversation.failed and not lines.terminal:
            raise typer.Exit(1)
