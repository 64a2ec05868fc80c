"""The application: its commands, its exit codes, and how errors are shown."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from importlib.metadata import version
from typing import Annotated, Final

import typer

from sdqueue.cli import chat, consumer, dead, dev, doctor, follow, health, keys, producer, send, settings, topology
from sdqueue.errors import ConfigurationError, InvalidTurn, SdqueueError

HELP = """
Chat turns of many sessions, through a broker to a pool of consumers: in order within a session, in parallel
between sessions, none lost, none answered twice.

Try it: **sdqueue dev** runs everything in one process on SQLite and gives you a prompt.

Run it: **sdqueue consumer** with SDQUEUE_BROKER_URL, SDQUEUE_STORE_URL and SDQUEUE_AGENT set is all that a
deployment needs. **sdqueue doctor** says what is missing.

Settings come, first wins, from options, the environment (SDQUEUE_…), .env and sdqueue.toml; **sdqueue settings**
shows all of them with their values.
"""

LEAVE_S: Final = 3.0
"""Seconds that threads of an agent's may go on when all else has ended."""

EPILOG = "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 130 interrupted"

app = typer.Typer(
    name="sdqueue",
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdqueue {version('sdqueue')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


app.command("dev", rich_help_panel="Try")(dev.dev)
app.command("chat", rich_help_panel="Try")(chat.chat)
app.command("send", rich_help_panel="Try")(send.send)
app.command("follow", rich_help_panel="Try")(follow.follow)
app.command("consumer", rich_help_panel="Run")(consumer.consumer)
app.command("producer", rich_help_panel="Run")(producer.producer)
app.add_typer(topology.app, name="topology", rich_help_panel="Run")
app.add_typer(keys.app, name="keys", rich_help_panel="Run")
app.add_typer(dead.app, name="dead", rich_help_panel="Look")
app.command("health", rich_help_panel="Look")(health.health)
app.command("doctor", rich_help_panel="Look")(doctor.doctor)
app.command("settings", rich_help_panel="Look")(settings.settings)


def main() -> None:
    """Run a command; an error that sdqueue raises on purpose is one message on standard error, without a traceback."""
    _write_whole_lines()
    logging.getLogger().addHandler(logging.NullHandler())  # the error itself says it all; consumers set up their own
    code: int | str | None = 0
    try:
        app(prog_name="sdqueue")
    except KeyboardInterrupt:
        code = 130
    except SdqueueError as error:
        sys.stdout.flush()
        print(f"sdqueue: {error}", file=sys.stderr)
        code = 2 if isinstance(error, ConfigurationError | InvalidTurn) else 1
    except SystemExit as ended:
        code = ended.code
    _be_gone_soon(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def _be_gone_soon(code: int) -> None:
    """End even where an agent has left a thread running, for which Python would wait for ever.

    A connection of aiosqlite has one until it is closed, so a graph's checkpointer in SQLite would keep a consumer from
    ending that has handed over all that it had.
    """
    others = threading.main_thread(), threading.current_thread()

    def leave() -> None:
        time.sleep(LEAVE_S)
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread not in others]
        if not left:
            return  # something else takes its time, such as a report that is sent at exit
        print(
            f"sdqueue: not waiting any longer for the threads that the agent has left: {', '.join(left)}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(code)

    threading.Thread(target=leave, name="sdqueue leaves", daemon=True).start()


def _write_whole_lines() -> None:
    """Each line in one write: processes of a pool share an output, and Python unbuffered would write the end apart.

    Images commonly set PYTHONUNBUFFERED; two lines at once then came out as one, followed by an empty one.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
