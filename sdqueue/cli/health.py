"""``sdqueue health``: asks the process of this container or machine, for probes that can only run a command.

It runs every few seconds in every container, so it brings in as little as it can: :func:`main` is called without the
other commands, and settings are read only where the environment does not say all.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from typing import Annotated, Final, NoReturn
from urllib.parse import quote, urlsplit

import typer

TIMEOUT_S: Final = 3.0
MAX_PORT: Final = 65535

UNKNOWN: Final = (
    "SDQUEUE_METRICS_PORT is not set, so no process answers here; set it for the consumer or producer, "
    "or name an address with --url"
)


def health(
    url: Annotated[
        str, typer.Option(help="Where the process answers. Default: SDQUEUE_METRICS_PORT of this machine.")
    ] = "",
    live: Annotated[
        bool, typer.Option("--live", help="Ask whether it lives (/healthz), not whether it is ready (/readyz).")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that it may take to answer.")] = TIMEOUT_S,
) -> None:
    """Ask a consumer or producer how it is: for health checks of containers and for scripts.

    It is ready when it takes work: broker and store are reached, and it is not stopping. It lives when its event loop
    turns. One line says which, or why not; the exit code is 0 or 1.

    Examples:

        SDQUEUE_METRICS_PORT=9464 sdqueue health

        sdqueue health --live --url http://10.0.0.7:9464
    """
    host, port, path = _address(url or f"http://127.0.0.1:{_port()}")
    path = path if path.strip("/") else ("/healthz" if live else "/readyz")
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", quote(path, safe="/%"))
        answer = connection.getresponse()
        body = answer.read(64 * 1024)
    except TimeoutError:
        _say(f"no answer from {where} within {timeout:g} s", 1)
    except ConnectionRefusedError:
        _say(f"nothing listens at {where}: the process is not there, or has another SDQUEUE_METRICS_PORT", 1)
    except (OSError, UnicodeError, http.client.HTTPException) as error:  # the second for a host that no DNS can have
        _say(" ".join(f"cannot ask {where}: {error or type(error).__name__}".split()), 1)
    finally:
        connection.close()
    said = _read(body)
    if answer.status == http.client.OK:
        _say(said or "ok", 0)
    _say(said or f"{where} answered {answer.status} {answer.reason}", 1)


def main() -> None:
    """Run it alone, without the time that it takes to bring in the other commands."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command("health", context_settings={"help_option_names": ["-h", "--help"]})(health)
    app(sys.argv[2:], prog_name="sdqueue health")


def _address(url: str) -> tuple[str, int, str]:
    """Host, port and path."""
    try:
        address = urlsplit(url)
        port = http.client.HTTP_PORT if address.port is None else address.port
        scheme, host, path = address.scheme, address.hostname, address.path
    except ValueError:  # a port that is no number, a bracket without its other one
        scheme, host, port, path = "", "", 0, ""
    if scheme != "http" or not host or not port:
        _say(f"sdqueue: --url {url.rpartition('@')[2]}: must be like http://127.0.0.1:9464", 2)
    return host, port, path


def _port() -> str:
    port = os.environ.get("SDQUEUE_METRICS_PORT", "")
    if not port.isdecimal() or int(port) > MAX_PORT:  # it is in a file, if anywhere, or wrong
        from sdqueue.errors import ConfigurationError
        from sdqueue.settings import Settings

        try:
            port = str(Settings.load().metrics_port)
        except ConfigurationError as error:
            _say(f"sdqueue: {error}", 2)
    if not int(port):
        _say(f"sdqueue: {UNKNOWN}", 2)
    return port


def _read(body: bytes) -> str:
    """What an answer says, in one line; empty where it is none of a process of sdqueue."""
    try:
        said = json.loads(body)
        reasons = "; ".join(said.get("reasons", ()))
        return " ".join(f"{said['status']}: {reasons}".removesuffix(": ").split())
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""


def _say(what: str, code: int) -> NoReturn:
    print(what, file=sys.stdout if code == 0 else sys.stderr, flush=True)
    raise SystemExit(code)
