"""The office of the help desk, on a port of 127.0.0.1: an OpenAI-compatible model, and the service of its errands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.agents.superdialog import desk


class Office:
    """What was asked for: the paths of errands with the token given, and how often the model was."""

    def __init__(self) -> None:
        self.errands: list[tuple[str, str | None]] = []
        self.asked = 0

    def forget(self) -> None:
        """Begin anew."""
        self.errands.clear()
        self.asked = 0

    def errand(self, path: str, token: str | None) -> Any:
        """Each one is answered differently, so that doing one again shows."""
        self.errands.append((path, token))
        return {"token": "t0ken"} if path == "/login" else {"left": len(self.errands)}

    def complete(self, body: dict[str, Any]) -> Any:
        """One decision or one sentence of the model."""
        self.asked += 1
        messages, tools = body["messages"], [tool["function"]["name"] for tool in body.get("tools", ())]
        message: dict[str, Any] = {"role": "assistant", "content": f"said {desk.digest(messages)}"}
        if tools:
            edge, slots = desk.wish(messages)
            name = edge if edge in tools else "__stay_on_node__"
            arguments = slots if edge in tools else {"brief_response": f"heard {desk.digest([messages, tools])}"}
            function = {"name": name, "arguments": json.dumps(arguments)}
            message = {"role": "assistant", "content": None}
            message["tool_calls"] = [{"index": 0, "id": "c", "type": "function", "function": function}]
        return message


@contextmanager
def open_office(patch: pytest.MonkeyPatch) -> Iterator[Office]:
    """The office, with its address in the environment of this process and of those that it starts."""
    office = Office()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(json.dumps(office.errand(self.path, self.headers["authorization"])))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self.path.endswith("/chat/completions"):
                self._answer(json.dumps(office.errand(self.path, body["key"])))
                return
            message, ends = office.complete(body), "tool_calls" if "tools" in body else "stop"
            frame = {"id": "r", "created": 0, "model": "none"}
            if not body.get("stream"):
                choice = {"index": 0, "message": message, "finish_reason": ends}
                self._answer(json.dumps({**frame, "object": "chat.completion", "choices": [choice]}))
                return
            choice = {"index": 0, "delta": message, "finish_reason": ends}
            piece = json.dumps({**frame, "object": "chat.completion.chunk", "choices": [choice]})
            self._answer(f"data: {piece}\n\ndata: [DONE]\n\n", "text/event-stream")

        def _answer(self, text: str, kind: str = "application/json") -> None:
            self.send_response_only(200)  # no date: what actions return is told to the model
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        patch.setenv(desk.URL, address)
        patch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        patch.setenv("OPENAI_API_KEY", "none")
        patch.setenv("LLM_BACKEND", "openai")
        try:
            yield office
        finally:
            server.shutdown()
            thread.join()
