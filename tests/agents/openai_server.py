"""A server of the OpenAI API, as far as tests need one: chat completions over real HTTP, answering what it is told to.

::

    async with OpenAIServer() as server:
        server.script(Calls(("call-1", "weather", {"city": "Oslo"})), Say("Rain."))
        client = AsyncOpenAI(base_url=server.base_url, api_key="test")
        ...
        assert server.requests[0].body["model"] == "test-model"

It is written on a plain socket, so that it can cut a connection in the middle of a line and count the connections.
Run as a module it answers with the last thing said, for trying things by hand.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Say:
    """An answer in words.

    Parameters:
        text: what is said; ``None`` is a content of null.
        pieces: the deltas in which it is streamed; default: word by word.
        finish: why it ended; ``None``: the end is not told, and the stream just stops.
        extra: more fields of the message, such as ``refusal``.
        hold: waited for after each piece of a stream, or before an answer in one piece.
    """

    text: str | None
    pieces: tuple[str, ...] | None = None
    finish: str | None = "stop"
    extra: dict[str, Any] = field(default_factory=dict)
    hold: asyncio.Event | None = None


@dataclass(frozen=True, init=False)
class Calls:
    """The model asks for tools: each call is ``(id, name, arguments)``, with arguments as a dict or as raw text.

    Parameters:
        text: what it says besides.
        fragment: characters of the arguments in each delta of a stream.
    """

    calls: tuple[tuple[str, str, Any], ...]
    text: str | None
    fragment: int
    finish: str

    def __init__(
        self, *calls: tuple[str, str, Any], text: str | None = None, fragment: int = 5, finish: str = "tool_calls"
    ) -> None:
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "fragment", fragment)
        object.__setattr__(self, "finish", finish)


@dataclass(frozen=True)
class Fail:
    """An HTTP error."""

    status: int
    message: str = "on purpose"
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Hang:
    """No answer until the client goes away."""


@dataclass(frozen=True)
class Cut:
    """The connection is cut: at once, or in a stream after these pieces."""

    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raw:
    """Any body."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True)
class StreamError:
    """In a stream an error after these pieces, as servers send it that have already said 200."""

    pieces: tuple[str, ...]
    error: dict[str, Any]


Answer = Say | Calls | Fail | Hang | Cut | Raw | StreamError


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    gone: asyncio.Event
    """Set when the client has gone before it had the whole answer."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that it sent."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def last(self) -> str:
        """The last thing said in it."""
        return str(self.messages[-1]["content"])


def echo(request: Request) -> Answer:
    """Say what was said last, and how many messages there were."""
    return Say(f"{len(request.messages)}. {request.last}")


class OpenAIServer:
    """The server; ``async with`` starts and stops it.

    Parameters:
        model: what answers requests that no script is left for: a function of the request, so that several
            conversations may go on at once.
        prefix: the path before ``/chat/completions``.
        port: 0: any that is free.
    """

    def __init__(self, model: Callable[[Request], Answer] = echo, *, prefix: str = "/v1", port: int = 0) -> None:
        self.model = model
        self.requests: list[Request] = []
        self.connections = 0
        self._script: deque[Answer] = deque()
        self._prefix = prefix
        self._port = port
        self._ids = itertools.count(1)
        self._open: set[asyncio.Task[None]] = set()
        self._asked = asyncio.Condition()

    def script(self, *answers: Answer) -> None:
        """Give these answers to the next requests, in order."""
        self._script.extend(answers)

    @property
    def base_url(self) -> str:
        """What ``OPENAI_BASE_URL`` is to be."""
        return f"http://127.0.0.1:{self._port}{self._prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to use it."""
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "test-key"}

    async def expect_requests(self, count: int) -> list[Request]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(30), self._asked:
            await self._asked.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        number = self.connections
        try:
            while (request := await read_request(reader, number)) is not None:
                answer = await self._take(request)
                if not await self._answer(request, answer, reader, writer):
                    writer.transport.abort()
                    return
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()

    async def _take(self, request: Request) -> Answer:
        async with self._asked:
            self.requests.append(request)
            self._asked.notify_all()
        if request.path != f"{self._prefix}/chat/completions":
            return Fail(404, f"no such path: {request.path}")
        return self._script.popleft() if self._script else self.model(request)

    async def _answer(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Send an answer; ``False`` where the connection is not to be used again."""
        match answer:
            case Fail():
                error = {"message": answer.message, "type": "test", "param": None, "code": answer.code}
                body = json.dumps({"error": error}).encode()
                return await _send(writer, answer.status, body, headers=answer.headers)
            case Raw():
                return await _send(writer, answer.status, answer.body, answer.content_type)
            case Cut(pieces=()):
                return False
            case Hang():
                return await _until_gone(request, reader)
            case _ if request.body.get("stream"):
                return await self._stream(request, answer, reader, writer)
        if isinstance(answer, Say) and answer.hold is not None and not await _held(answer.hold, request, reader):
            return False
        return await _send(writer, 200, json.dumps(self._completion(request, answer)).encode())

    def _completion(self, request: Request, answer: Answer) -> dict[str, Any]:
        assert isinstance(answer, Say | Calls), answer
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if isinstance(answer, Calls):
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": _text(arguments)}}
                for call_id, name, arguments in answer.calls
            ]
        else:
            message |= answer.extra
        return {
            **self._head(request, "chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }

    async def _stream(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = self._head(request, "chat.completion.chunk")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        async for delta, finish in _deltas(answer):
            chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            _write_chunk(writer, f"data: {json.dumps(chunk)}\n\n".encode())
            await writer.drain()
            hold = answer.hold if isinstance(answer, Say) and delta.get("content") else None
            if hold is not None and not await _held(hold, request, reader):
                return False
        if isinstance(answer, Cut):
            _write_chunk(writer, b'data: {"id": "half a li')
            await writer.drain()
            return False
        if isinstance(answer, StreamError):
            _write_chunk(writer, f"data: {json.dumps({'error': answer.error})}\n\n".encode())
        elif not isinstance(answer, Say) or answer.finish is not None:
            _write_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _head(self, request: Request, kind: str) -> dict[str, Any]:
        return {"id": f"answer-{next(self._ids)}", "object": kind, "created": 1, "model": request.body["model"]}


async def _deltas(answer: Answer) -> AsyncIterator[tuple[dict[str, Any], str | None]]:
    match answer:
        case Say():
            yield {"role": "assistant", "content": ""}, None
            pieces: Iterable[str] = _words(answer.text or "") if answer.pieces is None else answer.pieces
            for piece in pieces:
                yield {"content": piece}, None
            if answer.extra:
                yield answer.extra, None
            if answer.finish is not None:
                yield {}, answer.finish
        case Calls():
            yield {"role": "assistant", "content": None}, None
            for piece in _words(answer.text or ""):
                yield {"content": piece}, None
            for index, (call_id, name, _) in enumerate(answer.calls):
                function = {"name": name, "arguments": ""}
                yield {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}, None
            # The fragments of several calls come mixed.
            rows = [_cut(_text(arguments), answer.fragment) for _, _, arguments in answer.calls]
            for row in itertools.zip_longest(*rows):
                for index, part in enumerate(row):
                    if part is not None:
                        yield {"tool_calls": [{"index": index, "function": {"arguments": part}}]}, None
            yield {}, answer.finish
        case Cut() | StreamError():
            for piece in answer.pieces:
                yield {"content": piece}, None


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:] if text else []


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


async def read_request(reader: asyncio.StreamReader, connection: int = 0) -> Request | None:
    """The next request of a connection; ``None`` where that is at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(first.split(" ")[1], headers, json.loads(body or b"{}"), connection, asyncio.Event())


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: dict[str, str] | None = None,
) -> bool:
    fields = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode() + body)
    await writer.drain()
    return True


async def _until_gone(request: Request, reader: asyncio.StreamReader) -> bool:
    await _gone(reader)
    request.gone.set()
    return False


async def _held(hold: asyncio.Event, request: Request, reader: asyncio.StreamReader) -> bool:
    """Wait for the event; ``False`` where the client goes away first."""
    holding, going = asyncio.create_task(hold.wait()), asyncio.create_task(_gone(reader))
    try:
        await asyncio.wait({holding, going}, return_when=asyncio.FIRST_COMPLETED)
        if going.done():
            request.gone.set()
        return holding.done()
    finally:
        for task in (holding, going):
            task.cancel()
        await asyncio.gather(holding, going, return_exceptions=True)


async def _gone(reader: asyncio.StreamReader) -> None:
    try:
        await reader.read(1)  # a client says nothing before it has its answer
    except ConnectionError:
        return


async def _main() -> None:
    async with OpenAIServer(port=8089) as server:
        print(f"export OPENAI_BASE_URL={server.base_url} OPENAI_API_KEY=none", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
