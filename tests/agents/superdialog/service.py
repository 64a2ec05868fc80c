"""The shop's HTTP service, and the journal of its tools: what a conversation has really done outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.agents.superdialog import shop


class Service:
    """Takes bookings on a port of 127.0.0.1, and counts them.

    Parameters:
        journal: where the tools that are functions write that they ran.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.bookings: list[tuple[dict[str, Any], str | None]] = []
        """Their bodies and tokens, in order."""

    @property
    def ran(self) -> list[str]:
        """The tools that are functions, each time they ran."""
        return self.journal.read_text().split() if self.journal.exists() else []

    def forget(self) -> None:
        """Begin anew."""
        self.journal.unlink(missing_ok=True)
        self.bookings.clear()


@contextmanager
def serving(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service, with its address and journal in the environment of this process and of those that it starts."""
    service = Service(folder / "journal")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            service.bookings.append((body, self.headers["authorization"]))
            answer = b'{"number": 41}'
            self.send_response(201)
            self.send_header("content-length", str(len(answer)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        patch.setenv(shop.URL, f"http://127.0.0.1:{server.server_port}")
        patch.setenv(shop.JOURNAL, str(service.journal))
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
