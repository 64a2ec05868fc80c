"""The port of a process for machines: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for probes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from sdqueue.observe.health import Health

SILENT_S: Final = 10
"""Seconds after which a client that says nothing is cut."""

AT_ONCE: Final = 32
"""How many clients are answered at the same time, each by a thread; one more is cut at once."""


@contextmanager
def served(port: int, registry: CollectorRegistry, health: Health) -> Iterator[int]:
    """Answer on a port of all addresses for the length of a block, from threads: an event loop may be blocked.

    Parameters:
        port: 0: any that is free. Which one it is, is what the block gets.
        registry: what ``/metrics`` shows.
        health: what the other two tell.

    Raises:
        OSError: the port cannot be had.
    """
    server = _listening(port)
    server.set_app(_application(registry, health))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="sdqueue endpoints", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _application(registry: CollectorRegistry, health: Health) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method, more = environ["REQUEST_METHOD"], []
        match environ["PATH_INFO"]:
            case "/metrics":
                content: Iterable[bytes] = metrics(environ, start_response)
                return content
            case "/healthz" | "/readyz" if method not in ("GET", "HEAD"):
                status, body = HTTPStatus.METHOD_NOT_ALLOWED, {"status": f"{method} is not answered here, GET is"}
                more = [("Allow", "GET, HEAD")]
            case "/healthz":
                status, body = _told("alive", "blocked", health.alive())
            case "/readyz":
                status, body = _told("ready", "not-ready", health.ready())
            case _:
                status, body = HTTPStatus.NOT_FOUND, {"status": "there are /metrics, /healthz and /readyz"}
        told = json.dumps(body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(told))), *more]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if method == "HEAD" else [told]

    return answer


def _told(good: str, bad: str, reasons: Sequence[str]) -> tuple[HTTPStatus, dict[str, Any]]:
    if reasons:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": bad, "reasons": list(reasons)}
    return HTTPStatus.OK, {"status": good}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._places = BoundedSemaphore(AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, while there are not too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """All of one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not the one of HTTPServer, which looks up the machine's name: that may take the time of a DNS timeout.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is nothing to tell."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SILENT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name in the base class
        """Probes come every few seconds and are not logged."""

    def address_string(self) -> str:
        """As it is: looking its name up could take long."""
        return str(self.client_address[0])


def _listening(port: int) -> _Server:
    """On IPv6 and IPv4 alike, or on IPv4 alone where there is nothing else."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # switched off for this machine, or the port is taken, which the other one tells too
            return _Server6(("::", port), _Handler)
    return _Server(("0.0.0.0", port), _Handler)  # noqa: S104 -- probes and Prometheus come from elsewhere
