"""``sdqueue send``: one turn, from a script or by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Annotated, cast

import typer

from sdqueue.cli.options import BROKER, Given, JsonOption, require_shared_broker, takes_settings
from sdqueue.client import CONFIRM_TIMEOUT_S, REPLY_TIMEOUT_S, Client, TurnOptions
from sdqueue.errors import InvalidTurn, TurnFailed
from sdqueue.messages import OutboundReply, TurnKind
from sdqueue.settings import Settings


@takes_settings(*BROKER, "max_text_bytes")
async def send(
    given: Given,
    session: Annotated[str, typer.Argument(help="The session's id.")],
    text: Annotated[str, typer.Argument(help="What is said; - reads it from standard input.")],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the reply and print it.")] = False,
    stream: Annotated[bool, typer.Option(help="With --wait: print the reply while it is being made.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for the broker's confirm (default 10), with --wait for the reply (default 60)."),
    ] = None,
    turn_id: Annotated[
        str | None, typer.Option("--id", help="Names the turn for good; the same id is not run twice.")
    ] = None,
    channel: Annotated[str, typer.Option(help="Where the reply goes.")] = "default",
    sender: Annotated[str | None, typer.Option(help="Who says it.")] = None,
    kind: Annotated[str, typer.Option(help="message, assist, reset or cancel.")] = "message",
    metadata: Annotated[str | None, typer.Option(help="A JSON object, copied to the reply.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send one turn; print its id when the broker has it for good, or the reply with --wait.

    Examples:

        sdqueue send user-42 "my name is Ada"

        sdqueue send user-42 "what is my name?" --wait

        cat question.txt | sdqueue send user-42 - --wait --json

    The exit code is 1 when the broker cannot be reached, when no reply comes in time, and when the turn failed.
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    said = sys.stdin.read().removesuffix("\n") if text == "-" else text
    options: TurnOptions = {
        "id": turn_id,
        "channel": channel,
        "sender": sender,
        "kind": cast(TurnKind, kind),  # the client checks it
        "metadata": _json_object(metadata),
    }
    async with Client.from_settings(settings) as client:
        if not wait:
            sent = await client.send(session, said, timeout=timeout or CONFIRM_TIMEOUT_S, **options)
            print(json.dumps({"turn_id": sent, "session_id": session}) if as_json else sent)
            return
        timeout = timeout or REPLY_TIMEOUT_S
        if stream:
            await print_stream(client.stream(session, said, timeout=timeout, raise_on_error=False, **options), as_json)
        else:
            _print(await client.ask(session, said, timeout=timeout, raise_on_error=False, **options), as_json)


async def print_stream(replies: AsyncIterator[OutboundReply], as_json: bool) -> None:
    """Print an answer while it is being made; where it starts over, on a new line."""
    said = ""
    async for reply in replies:
        if as_json or (reply.kind == "error" and not said):
            _print(reply, as_json)
        elif reply.kind == "delta":
            if said and reply.stream is not None and reply.stream.restart:
                said = ""
                print()
            said += reply.text
            print(reply.text, end="", flush=True)
        elif reply.kind == "error":
            print()
            _fail_on_error(reply)
        else:
            # Deltas were lost, or all of them with a connection: the final text is what counts.
            print("" if reply.text == said else f"\n{reply.text}" if said else reply.text)


def _print(reply: OutboundReply, as_json: bool) -> None:
    if as_json:
        print(reply.to_bytes().decode(), flush=True)
    elif reply.kind != "error":
        print(reply.text)
    _fail_on_error(reply, told=as_json)


def _fail_on_error(reply: OutboundReply, *, told: bool = False) -> None:
    if reply.kind == "error":
        if told:
            raise typer.Exit(1)
        raise TurnFailed(reply)


def _json_object(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidTurn("invalid-field", f"metadata: is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise InvalidTurn("invalid-field", f"metadata: must be a JSON object, got {text[:60]!r}")
    return fields
