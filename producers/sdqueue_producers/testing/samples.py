"""Sample, and what a stranger makes of one: requests with every piece replaced by something nasty."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from sdqueue_producers.request import Request


@dataclass(frozen=True)
class Sample:
    """A request, and what is to come of it.

    Parameters:
        request: as the platform sends it, signed.
        turns: how many turns it is; 0 for a challenge, or an event that is of no interest.
        repeats: other requests with the same message, as of a platform that tells of it twice.
        refused: the status where it is not accepted, such as 401; then it is no turn.
    """

    request: Request
    turns: int = 1
    repeats: Sequence[Request] = ()
    refused: int | None = None


DEEP: Final = b"[" * 10_000 + b"]" * 10_000

NASTY_VALUES: Final[list[Any]] = [
    None, True, 0, -1, 1.5, 10**30, "", " ", "\x00", "\x07", "\n", "\u202e", "9" * 500, "x" * 300, "..", "%00", "{}",
    [], {}, [None], {"": None}, [[]], "🦊" * 300,
]  # fmt: skip

NASTY_HEADERS: Final = [
    "", " ", "\x00", "é", "ÿ" * 100, "abc", "nan", "inf", "-1", "0", "1e9", "9" * 500, "²", "٣", "v0=", "v1,", "v1,=",
    "sha256=", "Bearer", "Bearer ", "Basic Og==", ",", "=", "application/json; charset=utf-16", "gzip",
]  # fmt: skip

NASTY_BODIES: Final = [
    b"", b" ", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"null", b"0", b'""', b"[]", b"{}", b"[null]", b'{"a":', b"{{}}",
    b'"\\ud800"', b"NaN", b"1e999", b"payload=", b"payload=%7B", b"a=b&a=c", b"%", b"\x1f\x8b\x08\x00", DEEP,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b"x" * 100_000,
]  # fmt: skip


def with_nasty_headers(request: Request) -> Iterator[Request]:
    """The request with each of its headers taken away, and replaced by each nasty value."""
    for name in request.headers:
        yield replace(request, headers={k: v for k, v in request.headers.items() if k != name})
        for value in NASTY_HEADERS:
            yield replace(request, headers={**request.headers, name: value})


def with_nasty_fields(request: Request) -> Iterator[Request]:
    """The request with each field of its JSON, form or query taken away, and replaced by each nasty value.

    JSON inside of a form field is looked into as well.
    """
    for name in request.query:
        yield replace(request, query={k: v for k, v in request.query.items() if k != name})
        for value in NASTY_HEADERS:
            yield replace(request, query={**request.query, name: value})
    try:
        document = json.loads(request.body)
    except ValueError:
        yield from _with_nasty_form(request)
        return
    for changed in _changed(document):
        yield replace(request, body=json.dumps(changed).encode())


def _with_nasty_form(request: Request) -> Iterator[Request]:
    try:
        pairs = parse_qsl(request.body.decode(), strict_parsing=True)
    except ValueError:
        return
    for number, (name, value) in enumerate(pairs):
        yield replace(request, body=urlencode(pairs[:number] + pairs[number + 1 :]).encode())
        nasty = [other for other in NASTY_VALUES if isinstance(other, str)]
        if value.startswith("{"):
            nasty += [json.dumps(changed) for changed in _changed(json.loads(value))]
        for other in nasty:
            yield replace(request, body=urlencode([*pairs[:number], (name, other), *pairs[number + 1 :]]).encode())


def _changed(document: Any) -> Iterator[Any]:
    """The document with one place changed, for every place and every nasty value."""
    yield from NASTY_VALUES
    if isinstance(document, dict):
        for name, value in document.items():
            yield {k: v for k, v in document.items() if k != name}
            for changed in _changed(value):
                yield {**document, name: changed}
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield document[:number] + document[number + 1 :]
            for changed in _changed(value):
                yield [*document[:number], changed, *document[number + 1 :]]
