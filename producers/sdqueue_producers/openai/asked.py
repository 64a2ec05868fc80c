"""Asked: what a request to one of the two endpoints asks for, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic_core import from_json

from sdqueue_producers.openai.trouble import Trouble
from sdqueue_producers.request import Request

Api = Literal["chat", "responses"]

MAX_NAME: Final = 4096
"""Longest ``user``, ``conversation`` and the like, in characters: they travel with the turn and its replies."""

_TEXT_PARTS: Final = {"text", "input_text", "output_text"}
_BEFORE: Final = {"system", "developer"}


@dataclass(frozen=True)
class Asked:
    """One question.

    Parameters:
        api: the endpoint.
        model: one that there is.
        text: of the last message, which is a user's.
        alone: there are no earlier messages of a user or an assistant with it.
        stream: the answer is wanted piece by piece.
        include_usage: and at its end a chunk with the usage.
        conversation: the session's name in the body: ``conversation``.
        previous: the answer that this one follows: ``previous_response_id``.
        user: who asks: ``user``.
        metadata: the client's own.
        store: whether the answer may be fetched later.
    """

    api: Api
    model: str
    text: str
    alone: bool
    stream: bool
    include_usage: bool = False
    conversation: str | None = None
    previous: str | None = None
    user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    store: bool = True


def read(request: Request, api: Api, models: Sequence[str]) -> Asked:
    """Read a question.

    Raises:
        Trouble: 400, 404 or 415, with the field that is wrong.
    """
    body = _json(request)
    _refuse_unsupported(body, api)
    model = _text(body, "model") or models[0]
    if model not in models:
        raise no_model(model, models)
    text, alone = _last(body, api)
    conversation, previous = _conversation(body), _text(body, "previous_response_id")
    if conversation is not None and previous is not None:
        raise _wrong("previous_response_id", "is given together with conversation; give one of them")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    return Asked(
        api=api,
        model=model,
        text=text,
        alone=alone,
        stream=_flag(body, "stream", False),
        include_usage=_flag(options or {}, "include_usage", False),
        conversation=conversation,
        previous=previous,
        user=_text(body, "user"),
        metadata=_metadata(body),
        store=_flag(body, "store", True),
    )


def no_model(model: str, models: Sequence[str]) -> Trouble:
    """404, as OpenAI says it."""
    there = ", ".join(models)
    return Trouble(404, "model_not_found", f"the model {model[:100]!r} does not exist; there is {there}", param="model")


def _json(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Trouble(
            415, "unsupported_media_type", f"content type {kind[:80]!r}; only application/json is read", headers={}
        )
    try:
        body = from_json(request.body, allow_inf_nan=False)
    except ValueError as error:
        raise Trouble(400, "invalid_json", f"the body is not JSON in UTF-8 ({str(error)[:200]})") from None
    if not isinstance(body, dict):
        raise Trouble(400, "invalid_json", "the body must be a JSON object")
    return body


def _refuse_unsupported(body: Mapping[str, Any], api: Api) -> None:
    """What would change the answer's form and cannot be done; what only tunes a model is the agent's business."""
    if body.get("n") not in (None, 1):
        raise _wrong("n", "only one answer is made; leave it out")
    if body.get("background"):
        raise _wrong("background", "is not supported; use stream, or fetch the answer by its id")
    name = "response_format" if api == "chat" else "text"
    wanted = body.get(name)
    form = wanted if api == "chat" else wanted.get("format") if isinstance(wanted, dict) else None
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        raise _wrong(name, "only text is answered; leave the format out, or let the agent be told")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise _wrong("modalities", 'only ["text"] is answered')


def _last(body: Mapping[str, Any], api: Api) -> tuple[str, bool]:
    """The last message's text, and whether nothing but instructions came before it."""
    name = "messages" if api == "chat" else "input"
    messages = body.get(name)
    if api == "responses" and isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise _wrong(name, "must be a list with the user's message at its end")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str | None) for message in messages):
        raise _wrong(name, "must be a list of objects whose role is a text")
    said = [(place, message) for place, message in enumerate(messages) if message.get("role") not in _BEFORE]
    if not said or said[-1][1].get("role") != "user":
        raise _wrong(
            name, "the last message must be a user's: it is the turn. What was said before is known to the session"
        )
    place, message = said[-1]
    text = _content(message.get("content"), f"{name}[{place}].content")
    if not text:
        raise _wrong(f"{name}[{place}].content", "is empty")
    return text, len(said) == 1


def _content(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(name, "must be a text or a list of parts")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            raise _wrong(f"{name}[{place}]", f"parts of the type {str(kind)[:40]!r} are not supported, only text")
        if not isinstance(part.get("text"), str):
            raise _wrong(f"{name}[{place}].text", "must be a text")
        texts.append(part["text"])
    return "\n".join(texts)


def _conversation(body: Mapping[str, Any]) -> str | None:
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if not isinstance(conversation, str):
            raise _wrong("conversation.id", "must be a text")
    if conversation is not None and (not isinstance(conversation, str) or not conversation):
        raise _wrong("conversation", "must be an id, or an object with one")
    return _short(conversation, "conversation")


def _metadata(body: Mapping[str, Any]) -> Mapping[str, str]:
    """At most 16 pairs of texts, as in OpenAI's API: it travels with the turn and its replies."""
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or len(metadata) > 16:
        raise _wrong("metadata", "must be an object with at most 16 keys")
    for key, value in metadata.items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise _wrong("metadata", "keys have at most 64 characters, and values are texts of at most 512")
    return metadata


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "must be a text")
    return _short(value, name) or None


def _short(value: str | None, name: str) -> str | None:
    if value is not None and len(value) > MAX_NAME:
        raise _wrong(name, f"has {len(value)} characters, at most {MAX_NAME} are accepted")
    return value


def _flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return default if value is None else value


def _wrong(name: str, what: str) -> Trouble:
    return Trouble(400, "invalid_value", f"{name}: {what}", param=name)
