"""``sdqueue keys``: the keys that sessions are sealed with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from sdqueue.backends import open_session_keys, opened_sessions
from sdqueue.cli.letters import safe
from sdqueue.cli.options import KEYS, STORE, Given, JsonOption, takes_settings
from sdqueue.errors import ConfigurationError
from sdqueue.sessions import Keyring, Rotation, erase_key, rotate
from sdqueue.sessions.sealing.keyring import generate as generate_key
from sdqueue.settings import Settings

SHOWN = 20
"""So many failures of a rotation are shown one by one."""

app = typer.Typer(help="Make, rotate and erase the keys that sessions are sealed with.", no_args_is_help=True)


@app.command("generate")
def generate(
    name: Annotated[str, typer.Option("--id", help="The id of the key. Default: k and today's date.")] = "",
) -> None:
    """Make a new random master key, as SDQUEUE_ENCRYPTION_KEYS takes it. It is kept nowhere: without it nobody can
    open what it has sealed.

    Examples:

        sdqueue keys generate

        sdqueue keys generate --id k2
    """
    print(generate_key(name))


@app.command("rotate")
@takes_settings("store_url", *KEYS, "namespace", "session_ttl_s")
async def rotate_(given: Given, as_json: JsonOption = False) -> None:
    """Wrap the keys of all sessions under the first of SDQUEUE_ENCRYPTION_KEYS; the sessions stay as they are.

    Consumers may run. It may be interrupted and run again. When it ends well, the old master keys may be dropped.

    Examples:

        SDQUEUE_ENCRYPTION_KEYS="k2:…,k1:…" sdqueue keys rotate
    """
    settings = Settings.load(**given)
    text = settings.encryption_keys.get_secret_value()
    if not text:
        raise ConfigurationError(
            "SDQUEUE_ENCRYPTION_KEYS is not set; give the new key first and the old ones behind it, id:base64,id:base64"
        )
    keyring, keys = Keyring.parse(text), open_session_keys(settings)
    telling = sys.stderr.isatty()

    def tell(done: Rotation) -> None:
        if telling:
            print(f"\r{done.rewrapped + done.already} keys", end="", file=sys.stderr)

    try:
        result = await rotate(keys, keyring, on_progress=tell)
    finally:
        await keys.aclose()
    if as_json:
        print(json.dumps(asdict(result) | {"first": keyring.first}))
    else:
        print(
            f"under {keyring.first}: {result.rewrapped} keys wrapped anew, {result.already} were before; "
            f"{result.erased} erased, {len(result.failed)} failed"
        )
    for error in list(result.failed.values())[:SHOWN]:
        print(safe(error), file=sys.stderr)
    if result.failed:
        print("keep the old master keys, add those that are missing, and run it again", file=sys.stderr)
        raise typer.Exit(1)


@app.command("erase")
@takes_settings(*STORE, *KEYS, "namespace", "session_ttl_s")
async def erase(
    given: Given,
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION", help="Ids of sessions.")],
    as_json: JsonOption = False,
) -> None:
    """Erase the keys of sessions, then the sessions: what they have sealed is unreadable wherever copies of it are.

    There is no way back. It takes no master key. Whoever writes again under the same id begins anew.

    Examples:

        sdqueue keys erase user-42
    """
    settings = Settings.load(**given)
    keys = open_session_keys(settings)
    try:
        async with opened_sessions(settings) as (store, _):
            for session_id in sessions:
                had_key = await erase_key(keys, session_id)
                await store.delete(session_id)
                if as_json:
                    print(json.dumps({"session_id": session_id, "had_key": had_key}))
                else:
                    what = "key erased, session deleted" if had_key else "had no key; session deleted"
                    print(f"{safe(session_id)}: {what}")
    finally:
        await keys.aclose()
