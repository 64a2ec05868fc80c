"""LLMAgent: a language model with tools as an agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Self

from sdqueue.agents.agent import StreamChunk, TurnResult
from sdqueue.agents.chat import ChatContext, ChatMessage, ToolCall
from sdqueue.agents.llm.completion import Completion, RequestedCall
from sdqueue.agents.llm.model import LLM, as_request
from sdqueue.agents.llm.options import LLMOptions
from sdqueue.agents.llm.tools import Tool, Toolbox
from sdqueue.errors import ConfigurationError, TooManyRounds

Tools = Iterable[Tool | Callable[..., Any]]


class LLMAgent:
    """Answers with a language model, on any server that has OpenAI's API of chat completions.

    ::

        make = LLMAgent.factory(llm="openai/gpt-4o-mini", system_prompt="You are a waiter.", tools=[menu, order])

    An agent serves one session, so a pool takes a :meth:`factory`, whose agents share one client, closed with it.

    What the model said, the tools that it called and what they gave go into the conversation when the turn has come to
    its end; a turn that fails leaves nothing. A listener who stops a stream leaves what was said and done until then.

    Parameters:
        llm: the model's name, such as ``openai/gpt-4o-mini``, or an :class:`LLM`. Agents made with the same name in
            one event loop share a client for as long as there are any.
        system_prompt: what the model is told first, in every turn. It is no part of the conversation, so a new one
            holds for old sessions too.
        tools: what the model may call: functions with type hints and a docstring, or :class:`Tool` objects. A tool
            that is called runs inside the turn, where :func:`~sdqueue.current_turn` says which.
        options: how the model is asked.
        base_url, api_key: see :class:`LLM`; not besides one.

    Raises:
        ConfigurationError: the ``openai`` package or its key is missing, or an argument cannot work.
    """

    def __init__(
        self,
        *,
        llm: str | LLM,
        system_prompt: str | None = None,
        tools: Tools | Toolbox = (),
        options: LLMOptions | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._llm = _as_llm(llm, base_url, api_key, LLM.shared)
        self._prompt = system_prompt
        self._toolbox = tools if isinstance(tools, Toolbox) else Toolbox(tools)
        self._options = LLMOptions() if options is None else options
        self._chat = ChatContext()

    @classmethod
    def factory(
        cls,
        *,
        llm: str | LLM,
        system_prompt: str | None = None,
        tools: Tools = (),
        options: LLMOptions | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> LLMAgentFactory:
        """What builds such agents, all on one client. The parameters are those of the class."""
        shared = _as_llm(llm, base_url, api_key, LLM)
        toolbox = Toolbox(tools)
        return LLMAgentFactory(
            lambda: cls(llm=shared, system_prompt=system_prompt, tools=toolbox, options=options),
            shared,
            closes=not isinstance(llm, LLM),
        )

    @property
    def llm(self) -> LLM:
        """The model that it asks."""
        return self._llm

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation so far, with calls of tools and their results."""
        return self._chat

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        """Go on from this conversation."""
        self._chat = ctx

    def assist(self, text: str) -> None:
        """Tell the model something from the system's side, at this place in the conversation."""
        self._chat.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        """Answer one message.

        What the model says in several rounds, before and after it used tools, is one text, with an empty line between.

        Parameters:
            text: what was said.
            stream: return an iterator of pieces, whose last one carries the result.

        Raises:
            TooManyRounds: the model went on to ask for tools.
            ModelAnswerError: the server sent something that is no answer.
            openai.APIError: the server refused, or could not be reached.
        """
        pieces = self._pieces(text, stream=stream)
        if stream:
            return pieces
        result = None
        async for chunk in pieces:  # to its end: a generator left half-way is cleaned up by nobody in particular
            result = chunk.turn
        assert result is not None, "the last piece carries the turn"
        return result

    async def _pieces(self, text: str, *, stream: bool) -> AsyncGenerator[StreamChunk, None]:
        turn = _Turn(text)
        try:
            while not turn.ended:
                self._check_rounds(turn)
                async with aclosing(self._asked(turn, stream=stream)) as answer:
                    async for piece in answer:
                        if isinstance(piece, Completion):
                            turn.end_round(piece)
                        else:
                            yield StreamChunk(turn.hear(piece))
                if turn.calls:
                    turn.take_results(await self._toolbox.run(turn.calls, timeout=self._options.tool_timeout_s))
        except GeneratorExit:
            self._chat.items.extend(turn.heard())  # whoever listened has turned away
            raise
        except asyncio.CancelledError:
            if stream and turn.called:
                self._chat.items.extend(turn.heard())  # what tools have done is not to be forgotten
            raise
        self._chat.items.extend(turn.messages)
        yield StreamChunk(done=True, turn=turn.result())

    def _asked(self, turn: _Turn, *, stream: bool) -> AsyncGenerator[str | Completion, None]:
        first = [] if self._prompt is None else [ChatMessage("system", self._prompt)]
        messages = [as_request(message) for message in (*first, *self._chat.items, *turn.messages)]
        return self._llm.ask(messages, self._toolbox.described, self._options, stream=stream)

    def _check_rounds(self, turn: _Turn) -> None:
        if turn.rounds >= self._options.max_rounds:
            last = ", ".join(call.name for call in turn.called[-3:])
            raise TooManyRounds(
                f"the model has asked for tools in each of {turn.rounds} rounds of one turn, at last for {last}; "
                "look at what they tell it, or raise LLMOptions.max_rounds"
            )


class LLMAgentFactory:
    """Builds agents that share one client; made by :meth:`LLMAgent.factory`.

    ``sdqueue consumer`` closes it when it stops; in a program of your own, ``async with`` or :meth:`aclose` do.
    """

    def __init__(self, build: Callable[[], LLMAgent], llm: LLM, *, closes: bool) -> None:
        self._build = build
        self._closes = closes
        self.llm = llm
        """The model that all of them ask."""

    def __call__(self) -> LLMAgent:
        """An agent for one session."""
        return self._build()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, unless it came with an :class:`LLM` of yours."""
        if self._closes:
            await self.llm.aclose()


class _Turn:
    """A turn in the making: what it adds to the conversation."""

    def __init__(self, text: str) -> None:
        self.messages = [ChatMessage("user", text)]
        self.rounds = 0
        self.calls: list[RequestedCall] = []
        """What tools the model waits for."""
        self.called: list[ToolCall] = []
        self.ended = False
        self._said: list[str] = []
        self._round: list[str] = []
        """The pieces of the round that goes on."""
        self._completion = Completion("")
        self._usage: dict[str, int] = {}

    def hear(self, piece: str) -> str:
        """Take a piece of the model's words, and return it as it is to be read after those before."""
        read = f"\n\n{piece}" if self._said and not self._round else piece
        self._round.append(piece)
        self._said.append(read)
        return read

    def end_round(self, completion: Completion) -> None:
        if completion.text and not self._round:
            self.hear(completion.text)
        self.rounds += 1
        self.calls = list(completion.calls)
        self.ended = not self.calls
        self._completion = completion
        for name, count in completion.usage.items():
            self._usage[name] = self._usage.get(name, 0) + count
        if self.ended:
            self.messages.append(ChatMessage("assistant", completion.text))

    def take_results(self, results: list[tuple[ToolCall, str]]) -> None:
        calls = tuple(call for call, _ in results)
        self.messages.append(ChatMessage("assistant", self._completion.text, calls))
        self.messages += [ChatMessage("tool", said, tool_call_id=call.id) for call, said in results]
        self.called += calls
        self.calls = []
        self._round = []

    def heard(self) -> list[ChatMessage]:
        """What is to be remembered of a turn that nobody listened to until its end."""
        partial = [ChatMessage("assistant", "".join(self._round))] if self._round else []
        return [*self.messages, *partial]

    def result(self) -> TurnResult:
        about: dict[str, Any] = {"finish_reason": self._completion.finish}
        if self._usage:
            about["usage"] = self._usage
        return TurnResult("".join(self._said), self.called, {"llm": about})


def _as_llm(llm: str | LLM, base_url: str | None, api_key: str | None, named: Callable[..., LLM]) -> LLM:
    if isinstance(llm, str):
        return named(llm, base_url=base_url, api_key=api_key)
    if not isinstance(llm, LLM):
        raise ConfigurationError(
            f"llm is a {type(llm).__name__}; give a model's name, such as 'openai/gpt-4o-mini', or LLM(name, client=…)"
        )
    if base_url is not None or api_key is not None:
        raise ConfigurationError("base_url and api_key belong to an LLM, and are to be given to that")
    return llm
