"""Python values as JSON that brings them back with their types.

What agents keep is mostly JSON already, and is then written as it is. A tool may return a date, though, and a YAML file
has dates of its own; written as text, a later turn in another process would see another value than the same turn in
one process. So what JSON does not know is an object with one key, the name of its type with a ``$`` before it.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Callable
from typing import Any, Final

from sdqueue.errors import RecordCorrupt, RecordError

_SCALARS: Final[dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    # datetime is a date too, so values are looked up by their exact type
    datetime.datetime: ("$datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("$date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("$time", datetime.time.isoformat, datetime.time.fromisoformat),
    datetime.timedelta: (
        "$timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    decimal.Decimal: ("$decimal", str, decimal.Decimal),
    uuid.UUID: ("$uuid", str, uuid.UUID),
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
_COLLECTIONS: Final[dict[type, str]] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_PLAIN: Final = (str, int, bool, type(None))

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **{name: read for name, _, read in _SCALARS.values()},
    "$tuple": lambda items: tuple(map(decode_value, items)),
    "$set": lambda items: set(map(decode_value, items)),
    "$frozenset": lambda items: frozenset(map(decode_value, items)),
    "$float": float,
    "$dict": lambda pairs: {decode_value(key): decode_value(value) for key, value in pairs},
}


def encode_value(value: Any, where: str) -> Any:
    """The value as JSON values.

    Parameters:
        value: anything made of the types of JSON, dates and times, ``Decimal``, ``UUID``, bytes, tuples and sets.
        where: what the value is, for the error.

    Raises:
        RecordError: something in it is of another type, and could not come back as what it is. The value itself is
            not named: what agents keep is private.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return [encode_value(item, where) for item in value]
    if kind is dict:
        if all(type(key) is str and key[:1] != "$" for key in value):
            return {key: encode_value(item, where) for key, item in value.items()}
        return {"$dict": [[encode_value(key, where), encode_value(item, where)] for key, item in value.items()]}
    if kind in _COLLECTIONS:
        return {_COLLECTIONS[kind]: [encode_value(item, where) for item in value]}
    if kind in _SCALARS:
        name, write, _ = _SCALARS[kind]
        return {name: write(value)}
    raise RecordError(
        f"{where} holds a {kind.__module__}.{kind.__qualname__}, which cannot be saved with the session; return dicts, "
        "lists, strings, numbers or dates (of a pydantic model, its model_dump())"
    )


def decode_value(value: Any) -> Any:
    """The value that :func:`encode_value` was given.

    Raises:
        RecordCorrupt: it is nothing that it returns.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    name = next(iter(value), "")
    if name[:1] != "$":
        return {key: decode_value(item) for key, item in value.items()}
    reader = _READERS.get(name)
    if reader is None or len(value) != 1:
        raise RecordCorrupt(f"the stored state has a value of the unknown type {name!r}; something else wrote it")
    try:
        return reader(value[name])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise RecordCorrupt(f"the stored state has a damaged value of type {name!r}: {type(error).__name__}") from None
