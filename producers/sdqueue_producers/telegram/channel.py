"""TelegramChannel: people talk to bots in chats, groups and topics."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from pydantic_core import from_json

from sdqueue.errors import InvalidTurn, SdqueueError
from sdqueue_producers.channel import BaseChannel, Bucket, Caps
from sdqueue_producers.errors import Permanent
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request, Submit, refusal
from sdqueue_producers.telegram.api import BotApi, CallFailed, Refused
from sdqueue_producers.telegram.delivering import delivery_error
from sdqueue_producers.telegram.polling import MAX_WAIT_S, Poller
from sdqueue_producers.telegram.settings import TelegramSettings
from sdqueue_producers.telegram.update import ALLOWED, GROUPS, BadUpdate, Me, Update

log = logging.getLogger(__name__)

PREFIX: Final = "/telegram/"

MAX_CHARS: Final = 4096
"""Longest message, in Unicode characters. Only the places of entities are counted in UTF-16 units."""


class TelegramChannel(BaseChannel):
    """Bots of Telegram, by webhook or long polling.

    A session is a chat, or a topic in one. See docs/telegram.md for what is answered in groups.

    Parameters:
        settings: the bots, and how they hear of messages.
        context: the state, and under which address Telegram reaches us.
    """

    name = "telegram"
    caps = Caps(max_chars=MAX_CHARS, can_edit=True, edit_every_s=1.5, typing_ttl_s=5.0)

    def __init__(self, settings: TelegramSettings, context: ChannelContext) -> None:
        self._settings = settings
        self._state = context.state
        self._public_url = context.settings.public_url.rstrip("/")
        self._max_text_bytes = context.settings.max_text_bytes
        self._session: aiohttp.ClientSession | None = None
        self._apis: dict[str, BotApi] = {}
        self._known: dict[str, Me] = {}
        self.paths: Sequence[str] = (f"{PREFIX}{{bot}}",) if settings.mode == "webhook" else ()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._apis = {
            name: BotApi(self._session, self._settings.api_url, token, self._settings.call_timeout_s)
            for name, token in self._settings.bots.items()
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # In

    async def receive(self, request: Request) -> Receipt:
        """See :class:`~sdqueue_producers.Channel`: a post of Telegram's."""
        if request.method != "POST":
            return refusal(405, "method-not-allowed", f"Telegram posts; this was {request.method[:20]}", Allow="POST")
        given = request.headers.get("x-telegram-bot-api-secret-token", "").encode("utf-8", "surrogatepass")
        expected = self._settings.secret_token.get_secret_value().encode()
        if not expected or not hmac.compare_digest(given, expected):
            return refusal(401, "wrong-secret", "X-Telegram-Bot-Api-Secret-Token is missing, or is not the one agreed")
        bot = request.path.removeprefix(PREFIX)
        if bot not in self._apis:
            return refusal(404, "unknown-bot", f"there is no bot {bot[:40]!r} in the settings")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return refusal(415, "content-type", f"content type {kind[:80]!r}; application/json is expected")
        try:
            body = from_json(request.body, allow_inf_nan=False)
        except ValueError as error:
            return refusal(400, "not-json", f"the body is not JSON in UTF-8 ({str(error)[:200]})")
        try:
            return await self._read(bot, body)
        except (BadUpdate, InvalidTurn) as error:
            return refusal(400, "bad-update", str(error))
        except CallFailed as error:
            return refusal(503, "unavailable", f"the bot's own name is not known yet: {error}", Retry_After="5")

    async def listen(self, submit: Submit) -> None:
        """See :class:`~sdqueue_producers.Channel`: long polling, or else let Telegram know where to post."""
        work = self._poll if self._settings.mode == "polling" else self._announce
        async with asyncio.TaskGroup() as group:
            for name in self._apis:
                group.create_task(work(name, submit), name=f"telegram {name}")

    async def _poll(self, bot: str, submit: Submit) -> None:
        async def take(update: Any) -> None:
            try:
                await submit(await self._read(bot, update))
            except (BadUpdate, InvalidTurn) as error:
                log.warning("Telegram bot %s: an update is no turn and was left out: %s", bot, error)

        await Poller(bot, self._apis[bot], self._state, take, self._settings.poll_timeout_s).run()

    async def _announce(self, bot: str, submit: Submit) -> None:
        """Every process says the same, so that it does not matter who is last."""
        if not self._public_url:
            return  # the operator calls setWebhook
        hook = {
            "url": f"{self._public_url}{PREFIX}{bot}",
            "secret_token": self._settings.secret_token.get_secret_value(),
            "allowed_updates": ALLOWED,
        }
        wait_s = 1.0
        while True:
            try:
                await self._apis[bot].call("setWebhook", hook)
            except CallFailed as error:
                log.warning("Telegram bot %s: its webhook is set again in %.0f s: %s", bot, wait_s, error)
                await asyncio.sleep(wait_s)
                wait_s = min(MAX_WAIT_S, 2 * wait_s)
            else:
                return

    async def _read(self, bot: str, body: Any) -> Receipt:
        update = Update.read(body)
        if not update.said_by_user:
            return Receipt()
        me = self._known.get(bot) or Me(bot, self._apis[bot].bot_id)
        if update.to_group:
            if self._settings.groups == "none":
                return Receipt()
            me = await self._me(bot)
            if self._settings.groups == "addressed" and not update.is_addressed(me):
                return Receipt()
        return Receipt(turns=(update.make(me, stream=self._settings.stream, max_text_bytes=self._max_text_bytes),))

    async def _me(self, bot: str) -> Me:
        """The bot with its user name, which is asked for once."""
        if bot not in self._known:
            told = await self._apis[bot].call("getMe", {})
            username = told.get("username") if isinstance(told, dict) else None
            self._known[bot] = Me(bot, self._apis[bot].bot_id, username if isinstance(username, str) else "")
        return self._known[bot]

    # Out

    def buckets(self, address: Address) -> Sequence[Bucket]:
        """See :class:`~sdqueue_producers.Channel`: Telegram's own figures, which it calls approximate."""
        bot, chat = address["bot"], address["chat"]
        limits = [Bucket(f"bot:{bot}", 30, 1.0), Bucket(_chat_bucket(address), 1, 1.0)]
        if address["type"] in GROUPS:
            limits.append(Bucket(f"group:{bot}:{chat}", 20, 60.0))
        return limits

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`~sdqueue_producers.Channel`."""
        if not outgoing.text.strip():
            return Sent()  # Telegram has no empty messages
        params = {"text": outgoing.text, "message_thread_id": address["topic"]}
        if address["type"] in GROUPS and self._settings.reply_in_groups and outgoing.part == 0:
            params["reply_parameters"] = {"message_id": address["message"], "allow_sending_without_reply": True}
        sent = await self._show("sendMessage", address, params, outgoing)
        return Sent(sent.get("message_id") if isinstance(sent, dict) else None)

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """See :class:`~sdqueue_producers.Channel`."""
        if outgoing.text.strip():
            await self._show("editMessageText", address, {"text": outgoing.text, "message_id": ref}, outgoing)
        return Sent(ref)

    async def typing(self, address: Address, on: bool) -> None:
        """See :class:`~sdqueue_producers.Channel`; it goes away by itself."""
        if on:
            where = {"chat_id": await self._chat(address), "message_thread_id": address["topic"]}
            await self._api(address).call("sendChatAction", where | {"action": "typing"})

    async def _show(self, method: str, address: Address, params: dict[str, Any], outgoing: Outgoing) -> Any:
        """Call it, plain where the formatting cannot be read, and where a group has gone."""
        # Half a text has half of its formatting.
        mode = self._settings.parse_mode if outgoing.reply.kind != "delta" else ""
        params = params | {"chat_id": await self._chat(address), "parse_mode": mode or None}
        while True:
            try:
                result = await self._api(address).call(method, params)
            except Refused as error:
                moved = error.parameters.get("migrate_to_chat_id")
                if isinstance(moved, int) and moved != params["chat_id"]:
                    await self._state.set({_moved_key(address): str(moved)}, ttl_s=None)
                    params = params | {"chat_id": moved}
                elif error.says("can't parse entities", "ENTITIES_TOO_LONG") and params["parse_mode"]:
                    params = params | {"parse_mode": None}
                elif error.says("message is not modified"):
                    return None
                else:
                    raise self._told(error, method, address) from None
            except CallFailed as error:
                raise self._told(error, method, address) from None
            else:
                return result

    def _told(self, error: CallFailed, method: str, address: Address) -> SdqueueError:
        return delivery_error(
            error, bot=address["bot"], bucket=_chat_bucket(address), again_is_harmless=method != "sendMessage"
        )

    def _api(self, address: Address) -> BotApi:
        api = self._apis.get(address["bot"])
        if api is None:
            raise Permanent("unknown-bot", f"there is no bot {address['bot']!r} in the settings any more")
        return api

    async def _chat(self, address: Address) -> int:
        """The chat, or the one that it has become: a group that grows gets another id."""
        chat: int = address["chat"]
        if address["type"] != "group":
            return chat
        (moved,) = await self._state.get([_moved_key(address)])
        return chat if moved is None else int(moved)


def make_channel(context: ChannelContext) -> TelegramChannel:
    """The channel ``telegram``, by its settings."""
    return TelegramChannel(TelegramSettings.load(), context)


def _chat_bucket(address: Address) -> str:
    return f"chat:{address['bot']}:{address['chat']}"


def _moved_key(address: Address) -> str:
    return f"telegram:moved:{address['bot']}:{address['chat']}"
