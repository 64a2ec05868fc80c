"""Socket Mode: events over WebSockets that this process opens, for bots without a public address.

slack_sdk names the messages and opens connections; the socket itself is aiohttp's. slack_sdk's own client starts a task
for each message that nobody waits for, acknowledges on whichever connection is there by then, and tries for ever to
connect without telling why it cannot. Here a failure ends ``run``, and the ingress begins it again and tells of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from sdqueue.errors import ConfigurationError, SdqueueError
from sdqueue_producers.request import Receipt, Submit
from sdqueue_producers.slack.clients import UNREACHABLE, refusal_of
from sdqueue_producers.slack.payload import UnreadablePayload, read_json

HEARTBEAT_S: Final = 10.0
"""Seconds between pings; a connection that does not answer one is opened anew."""

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message of a socket; far more than Slack's 40,000 characters need."""

AT_ONCE: Final = 100
"""Envelopes of one connection that may wait for the broker at once; further ones are not read from the socket."""

FIRST_WAIT_S: Final = 1.0
"""Seconds before the second try of a connection; twice as many before each further one."""

LONGEST_WAIT_S: Final = 30.0

log = logging.getLogger("sdqueue.slack")

Read = Callable[[str, Mapping[str, Any]], Awaitable[Receipt]]
"""Makes a receipt of an envelope's type and payload."""


class SocketModeFailed(SdqueueError):
    """No connection for Socket Mode could be opened."""


class SocketMode:
    """Keeps some connections open, and acknowledges an envelope once its turns are confirmed.

    Slack gives an envelope to one connection, and again to any of them where it is not acknowledged in some seconds.
    Several connections bridge the time in which one is opened anew, which Slack asks for every few hours.

    Parameters:
        client: of the Web API, without a token.
        app_token: ``xapp-…``.
        session: opens the sockets.
        read: makes receipts.
        connections: how many; Slack allows an app 10, in all processes together.
    """

    def __init__(
        self,
        client: AsyncWebClient,
        app_token: str,
        session: aiohttp.ClientSession,
        read: Read,
        *,
        connections: int = 2,
    ) -> None:
        self._client = client
        self._app_token = app_token
        self._session = session
        self._read = read
        self._connections = connections
        self._reading = asyncio.Lock()

    async def run(self, submit: Submit) -> None:
        """Receive until cancelled.

        Raises:
            ConfigurationError: Slack does not accept the token, or the app has no Socket Mode.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._keep_connected(submit))
        except BaseExceptionGroup as errors:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup):  # the first says what is wrong; the others were cancelled
                error = error.exceptions[0]
            raise error from None

    async def _keep_connected(self, submit: Submit) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                socket = await self._connect()
            except SocketModeFailed as error:
                log.warning("%s; it is tried again in %.0f s", error, wait_s)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            try:
                greeted = await self._serve(socket, submit)
            finally:
                await socket.close()
            if greeted:
                wait_s = FIRST_WAIT_S
            else:  # it is accepted and thrown out at once: not as fast as can be
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        """A new connection. Its address is good once, and a secret."""
        try:
            answer = await self._client.apps_connections_open(app_token=self._app_token)
            return await self._session.ws_connect(
                str(answer["url"]), heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES
            )
        except SlackApiError as error:
            slug, _ = refusal_of(error)
            if slug in _HOPELESS:
                raise ConfigurationError(
                    f"Slack opens no connection for Socket Mode ({slug}): SDQUEUE_SLACK_APP_TOKEN must be an app-level "
                    "token (xapp-…) with the scope connections:write, and Socket Mode must be on in the app's settings"
                ) from None
            raise SocketModeFailed(f"Slack opens no connection for Socket Mode now ({slug})") from None
        except (*UNREACHABLE, KeyError) as error:
            raise SocketModeFailed(f"no connection for Socket Mode could be opened ({type(error).__name__})") from None

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse, submit: Submit) -> bool:
        """Take what comes until the connection ends; answers whether Slack had greeted.

        Envelopes are read one after the other, over all connections, so that the turns of a session are handed over in
        the order in which they came; they wait for their confirms together.
        """
        greeted = False
        room = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                try:
                    fields = read_json(message.data)
                except UnreadablePayload as error:
                    log.warning("Slack has sent something over Socket Mode that is not understood: %s", error)
                    continue
                match fields.get("type"):
                    case "hello":
                        greeted = True
                    case "disconnect":
                        # Whatever was read of this connection is still acknowledged on it before it is closed.
                        log.info("Slack ends a connection of Socket Mode: %s", str(fields.get("reason"))[:64])
                        return greeted
                    case _:
                        await room.acquire()
                        await self._take(socket, fields, submit, group, room)
        return greeted

    async def _take(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        fields: dict[str, Any],
        submit: Submit,
        group: asyncio.TaskGroup,
        room: asyncio.Semaphore,
    ) -> None:
        envelope = SocketModeRequest.from_dict(fields)
        if envelope is None or not isinstance(envelope.envelope_id, str) or not isinstance(envelope.payload, dict):
            room.release()
            return
        try:
            async with self._reading:
                receipt = await self._read(envelope.type, envelope.payload)
        except SdqueueError as error:
            log.warning("an envelope of Socket Mode is left for Slack to send again: %s", error)
            room.release()
            return
        if receipt.on_ok.status_code >= 400:
            log.warning("Slack has sent something over Socket Mode that cannot be a turn: %s", receipt.reason)
        task = group.create_task(self._confirm(socket, envelope.envelope_id, receipt, submit))
        task.add_done_callback(lambda _: room.release())

    async def _confirm(
        self, socket: aiohttp.ClientWebSocketResponse, envelope_id: str, receipt: Receipt, submit: Submit
    ) -> None:
        """Hand the turns over, and only then acknowledge. Without it Slack sends the envelope again."""
        try:
            await submit(receipt)
        except SdqueueError as error:
            log.warning("an envelope of Socket Mode was not confirmed and is left for Slack to send again: %s", error)
            return
        try:
            await socket.send_str(json.dumps(SocketModeResponse(envelope_id).to_dict()))
        except (ConnectionError, aiohttp.ClientError, RuntimeError):
            # The connection is gone; Slack sends the envelope again, and its turns are known by then.
            log.info("an envelope of Socket Mode could not be acknowledged: its connection is gone")


_HOPELESS: Final = frozenset(
    {
        "invalid_auth", "not_authed", "not_allowed_token_type", "account_inactive", "token_revoked", "token_expired",
        "missing_scope", "socket_mode_not_enabled", "forbidden_team", "no_permission", "access_denied",
    }
)  # fmt: skip
"""What no further try can change."""
