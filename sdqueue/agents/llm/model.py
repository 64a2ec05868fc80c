"""LLM: a model behind the OpenAI API, asked through the ``openai`` package.

What the server or the network does wrong is raised as the package raises it (``openai.RateLimitError``,
``openai.APITimeoutError``, …), which is what the retry policy of a consumer knows to read.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from pydantic_core import to_json

from sdqueue.agents.chat import ChatMessage
from sdqueue.agents.extras import extra
from sdqueue.agents.llm.completion import Completion, Parts, requested, usage_of, words_of
from sdqueue.agents.llm.options import LLMOptions
from sdqueue.errors import ConfigurationError, ModelAnswerError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PREFIX: Final = "openai/"
"""What a model's name may begin with, as in ``openai/gpt-4o-mini``: which API it is behind."""


MIN_KEY: Final = 8
"""Characters of a key that is a secret."""


_shared: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[Any, LLM]]] = WeakKeyDictionary()
"""By event loop, the models that living agents ask. Nothing is kept alive by it."""


class LLM:
    """A model and the client that reaches it. One serves any number of agents, which share its connections.

    ``OPENAI_BASE_URL``, ``OPENAI_API_KEY`` and the other variables of the ``openai`` package are read when this is
    made, where they are not given here. The client belongs to the event loop in which it is first used.

    Parameters:
        model: its name, with or without ``openai/`` before it. Only one such prefix is taken off, so a router that
            itself has an ``openai/gpt-4o`` is asked for it by ``openai/openai/gpt-4o``.
        client: an ``AsyncOpenAI`` (or ``AsyncAzureOpenAI``) of your own, which you close yourself. Its own retries are
            not used: a consumer's retry policy, which is shown in its logs, decides.
        base_url: where the server is, up to and without ``/chat/completions``.
        api_key: what it wants to see; anything for a server that needs none.

    Raises:
        ConfigurationError: the ``openai`` package is not installed, there is no key, or the arguments do not fit.
    """

    def __init__(
        self,
        model: str,
        *,
        client: AsyncOpenAI | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if not isinstance(model, str) or not model.removeprefix(PREFIX):
            raise ConfigurationError(f"the model is {model!r}; give its name, such as 'openai/gpt-4o-mini'")
        if client is not None and (base_url is not None or api_key is not None):
            raise ConfigurationError("give either a client or base_url and api_key, which a client has already")
        self.model = model.removeprefix(PREFIX)
        """The model's name as the server knows it."""
        self._own = client is None
        self._client = _connect(base_url, api_key) if client is None else client.with_options(max_retries=0)

    @classmethod
    def shared(cls, model: str, *, base_url: str | None = None, api_key: str | None = None) -> LLM:
        """One that is used in this event loop already and was made of the same, or a new one.

        For agents that are made one by one: a client takes 30 ms to make, and has connections of its own.

        Raises:
            ConfigurationError: as for the class.
        """
        try:
            known = _shared.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        except RuntimeError:  # there is no loop yet
            return cls(model, base_url=base_url, api_key=api_key)
        variables = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("OPENAI_")))
        made_of = (model, base_url, api_key, variables)
        llm = known.get(made_of)
        if llm is None or llm._client.is_closed():
            llm = known[made_of] = cls(model, base_url=base_url, api_key=api_key)
        return llm

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return str(self._client.base_url)

    async def aclose(self) -> None:
        """Close the connections, unless they are those of a client that was given."""
        if self._own:
            await self._client.close()

    async def ask(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], options: LLMOptions, *, stream: bool
    ) -> AsyncGenerator[str | Completion, None]:
        """Ask the model once.

        Parameters:
            messages: the conversation, see :func:`as_request`.
            tools: the tools that it may ask for.
            options: how it is asked.
            stream: get its words piece by piece.

        Yields:
            With ``stream`` pieces of its words; at the end all of what it said.

        Raises:
            ModelAnswerError: the server said something that is no answer.
            ModelInterrupted: the stream ended before the answer did.
            openai.APIError: the server refused, or could not be reached.
        """
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), "stream": stream}
        if tools:
            request["tools"] = list(tools)
        client: Any = self._client
        with self._telling_errors():
            answer = await client.chat.completions.create(
                **request, extra_body=dict(options.parameters), timeout=options.request_timeout_s
            )
            if not stream:
                yield self._completion(answer)
                return
            parts = Parts()
            async with answer as chunks:
                async for chunk in chunks:
                    if piece := parts.add(chunk):
                        yield piece
            yield parts.completion()

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        """Raise errors as they are, but without the key, which some servers repeat; they end up in logs and letters."""
        openai = _openai()
        try:
            yield
        except openai.APIError as error:
            if self._without_key(told := f"{error.message}{error.body}") != told:
                error.message = self._without_key(error.message)
                error.args = (error.message,)
                error.body = None
            if type(error) is openai.APIError:
                # It came in the middle of a stream: the request was good, so trying again may help.
                raise _refused(error.message, error.code) from error
            raise
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelAnswerError(
                f"the model's server sent no JSON: {error}; see whether base_url is right"
            ) from error

    def _without_key(self, text: str) -> str:
        key = self._client.api_key
        # Not one that is made up, such as "none", which may be a word of the message.
        return text.replace(key, "***") if len(key) >= MIN_KEY else text

    def _completion(self, answer: Any) -> Completion:
        choices = getattr(answer, "choices", None) or [None]
        message = getattr(choices[0], "message", None)
        if message is None:
            error = getattr(answer, "error", None)  # so some routers say what a status of 200 does not
            if isinstance(error, dict):
                raise _refused(self._without_key(str(error.get("message"))), error.get("code"))
            said = self._without_key(str(answer))[:200]
            raise ModelAnswerError(f"the model's server sent no answer but {said!r}; see whether base_url is right")
        calls = []
        for call in getattr(message, "tool_calls", None) or ():
            function = getattr(call, "function", None)
            name, arguments = getattr(function, "name", None), getattr(function, "arguments", None)
            calls.append(requested(call.id, name, arguments))
        finish = getattr(choices[0], "finish_reason", None) or "stop"
        return Completion(words_of(message), tuple(calls), finish, usage_of(answer))


def as_request(message: ChatMessage) -> dict[str, Any]:
    """A message of a conversation as the API wants it."""
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": to_json(call.arguments).decode()},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _refused(message: str, code: Any) -> ModelAnswerError:
    status = int(code) if str(code or "").isdigit() else 500
    return ModelAnswerError(f"the model's server gave up: {message} (code {code})", status_code=status)


def _connect(base_url: str | None, api_key: str | None) -> AsyncOpenAI:
    openai = _openai()
    try:
        client: AsyncOpenAI = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)
    except openai.OpenAIError as error:
        raise ConfigurationError(
            f"the model cannot be reached without a key: {error} Set OPENAI_API_KEY (to anything, for a server that "
            "needs none), or give api_key"
        ) from error
    if not (client.api_key.isascii() and client.api_key.isprintable()):
        # A newline at its end, as files have: every turn would fail with nothing but "Connection error".
        raise ConfigurationError(
            f"the key of {len(client.api_key)} characters has a line break or another one that no header can have; see "
            "OPENAI_API_KEY, or what api_key was read from"
        )
    return client


def _openai() -> Any:
    with extra("openai"):
        return importlib.import_module("openai")
