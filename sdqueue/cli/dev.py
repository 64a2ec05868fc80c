"""``sdqueue dev``: everything in one process, with a prompt."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer

from sdqueue.backends import open_broker, open_worker, opened_delta_log, opened_sessions
from sdqueue.brokers import Broker, Delivery
from sdqueue.cli.conversation import Conversation
from sdqueue.cli.lines import Lines
from sdqueue.cli.options import EVERYTHING, Given, agents_of, takes_settings
from sdqueue.client import REPLY_TIMEOUT_S, Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.errors import ConfigurationError
from sdqueue.messages import DeadTurn, OutboundReply
from sdqueue.observe import Observer, Observers
from sdqueue.observe.logs import LogObserver, configure_logging
from sdqueue.settings import Settings

CHANNEL: Final = "dev"
"""The channel of the turns said here; its replies are kept until they were shown."""

GRACE_S: Final = 2.0
"""Seconds that a running turn gets at the end, unless told otherwise."""

OWN: Final = (
    "broker_url",
    "store_url",
    "lock_url",
    "stream_url",
    "keys_url",
    "apply",
    "metrics_port",
    "blocked_limit_s",
)
"""Settings that it has values of its own for."""


@takes_settings(*(name for name in EVERYTHING if name not in OWN))
async def dev(
    given: Given,
    data: Annotated[Path, typer.Option(help="Where turns and sessions are kept.", file_okay=False)] = Path(".sdqueue"),
    session: Annotated[str, typer.Option(help="The session to begin in.")] = "dev",
    timeout: Annotated[
        float, typer.Option(help="Seconds of silence after which a reply is given up.")
    ] = REPLY_TIMEOUT_S,
) -> None:
    """Run everything in one process on SQLite, and chat with it at a prompt; /help lists the commands.

    Turns and sessions survive a restart: a turn that was waiting when the process ended is answered when it starts
    again. Without --agent a small built-in one answers, which remembers what it is told: try "my name is Ada" and
    "what is my name?", in two sessions. Log lines go to the file dev.log beside the data.

    Without a terminal it reads standard input line by line, and ends with the input when all replies have come.

    Examples:

        sdqueue dev --agent mybot:make_agent

        printf 'my name is Ada\\nwhat is my name?\\n' | sdqueue dev --data try-out
    """
    settings = _settings(given, data)
    async with AsyncExitStack() as stack:
        agents = await stack.enter_async_context(agents_of(settings))
        stack.enter_context(_log_file(settings, data / "dev.log"))
        store, locks = await stack.enter_async_context(opened_sessions(settings))
        delta_log = await stack.enter_async_context(opened_delta_log(settings))
        broker = await stack.enter_async_context(open_broker(settings))
        await broker.apply()
        worker = open_worker(settings, agents, store=store, locks=locks)
        options = ConsumerOptions.from_settings(settings, name="dev")
        lines = stack.enter_context(Lines())
        observer = Observers(LogObserver(options.name), _Failures(lines, data / "dev.log"))
        consumer = Consumer(broker, worker, options, observer=observer, delta_log=delta_log)
        client = await stack.enter_async_context(Client(broker, max_text_bytes=settings.max_text_bytes))
        conversation = Conversation(client, lines, store.load, session=session, channel=CHANNEL, timeout=timeout)
        await _show_late_replies(stack, broker, conversation, lines)
        await stack.enter_async_context(consumer)
        if lines.terminal:
            agent = settings.agent or "the built-in one"
            print(f"sdqueue dev: turns and sessions are in {data}/; the agent is {agent}; /help lists the commands")
        await _until_stopped(conversation)
    if conversation.failed and not lines.terminal:
        raise typer.Exit(1)


class _Failures(Observer):
    """Shows what an agent raised where its author sits, above the prompt."""

    def __init__(self, lines: Lines, log: Path) -> None:
        self._lines = lines
        self._log = log

    def turn_settled(
        self, *, state: str, session_id: str, turn_id: str, seconds: float, letter: DeadTurn | None, by: str | None
    ) -> None:
        if letter is not None:
            frames = letter.trace.splitlines()[-4:-1]
            said = "\n".join([f"{letter.reason}: {letter.error}", *frames, f"  (all of it is in {self._log})"])
            if self._lines.terminal:
                self._lines.tell(said)
            else:
                print(said, file=sys.stderr)


def _settings(given: Given, data: Path) -> Settings:
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--data {data}: cannot be made: {error}") from None
    folder = data.absolute()
    settings = Settings.load(
        **given, broker_url=f"sqlite:///{folder / 'broker.db'}", store_url=f"sqlite:///{folder / 'sessions.db'}",
        lock_url="", stream_url="", keys_url="",
    )  # fmt: skip
    # Whoever sits before it does not want to wait: what is running is answered after the next start.
    return settings if settings.origin("grace_s") != "default" else settings.model_copy(update={"grace_s": GRACE_S})


async def _until_stopped(conversation: Conversation) -> None:
    """Talk until the input ends, or until SIGTERM: what was said is answered after the next start."""
    talking = asyncio.create_task(conversation.run())
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        talking.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        await talking
    except asyncio.CancelledError:
        if not stopped:
            talking.cancel()
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _show_late_replies(stack: AsyncExitStack, broker: Broker, conversation: Conversation, lines: Lines) -> None:
    """Print the replies to turns that were said before a restart."""

    def show(delivery: Delivery) -> None:
        if delivery.message.correlation_id not in conversation.asked:
            try:
                reply = OutboundReply.decode(delivery.message.body)
            except ValueError as error:
                structlog.get_logger().warning("a reply cannot be read", error=str(error))
            else:
                if reply.kind != "delta":
                    lines.tell(f"({reply.session_id}, said earlier) {reply.text}")
        delivery.subscription.ack(delivery)

    queue = await broker.declare_egress(CHANNEL)
    subscription = await broker.subscribe(queue, show, prefetch=100)
    stack.push_async_callback(subscription.close)


@contextmanager
def _log_file(settings: Settings, path: Path) -> Iterator[None]:
    """Keep log lines out of the prompt."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        configure_logging(settings.log_level, settings.log_format, file)
        try:
            yield
        finally:
            logging.getLogger().handlers.clear()
            structlog.reset_defaults()
