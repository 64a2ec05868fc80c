"""The page: the widget that operators put into their own, and a page to try it on."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

_FOLDER: Final = resources.files(__package__) / "static"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of the page. The widget needs of a page of an operator's own: ``script-src`` and
``connect-src`` with the producer's address, the latter also with ``wss:``, and nothing for styles."""

COMMON: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def page_routes(*, page: bool) -> list[BaseRoute]:
    """``/webchat/widget.js``, and where it is wanted the page.

    Parameters:
        page: whether there is a page.
    """
    # The widget may be embedded anywhere: who may use it is decided where tokens and messages are taken.
    embeddable = {"Cross-Origin-Resource-Policy": "cross-origin"}
    routes: list[BaseRoute] = [_serve("/webchat/widget.js", widget(), "text/javascript", embeddable)]
    if page:
        policy = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"}
        routes += [
            _serve("/webchat/", (_FOLDER / "index.html").read_bytes(), "text/html", policy),
            Route("/webchat", _to_page, methods=["GET"]),
            _serve("/webchat/page.css", (_FOLDER / "page.css").read_bytes(), "text/css", {}),
        ]
    return routes


def widget() -> bytes:
    """The script with its stylesheet in it: one request, and a page's policy for styles need not know of it."""
    script, style = ((_FOLDER / name).read_text("utf-8") for name in ("widget.js", "widget.css"))
    return script.replace('STYLE = "widget.css"', f"STYLE = {json.dumps(style)}").encode()


async def _to_page(request: Request) -> Response:
    """To the page, by an address that holds behind a proxy that takes part of the path away."""
    return RedirectResponse("webchat/", status_code=308)


def _serve(path: str, body: bytes, media_type: str, headers: dict[str, str]) -> Route:
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    headers = {**COMMON, **headers, "ETag": tag, "Cache-Control": "public, max-age=300"}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    return Route(path, serve, methods=["GET"])
