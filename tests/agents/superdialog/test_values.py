"""Values of Python as JSON: what comes back is what was given, with its types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdqueue.agents.superdialog.values import decode_value, encode_value
from sdqueue.errors import RecordCorrupt, RecordError

HASHABLE = (
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False) | st.binary() | st.uuids()
    | st.dates() | st.times() | st.datetimes() | st.timedeltas() | st.decimals(allow_nan=False)
)  # fmt: skip
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE) | st.frozensets(HASHABLE),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(HASHABLE | st.just("$date"), inner),
)


def through_json(value: Any) -> Any:
    return decode_value(json.loads(json.dumps(encode_value(value, "it"), allow_nan=False)))


def typed(value: Any) -> Any:
    """With its types, since for Python 1 == 1.0 == True. Sets have no order that could be kept."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), {(type(item), item) for item in value}
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value), value


@given(VALUES)
def test_a_value_comes_back_with_its_types(value: Any) -> None:
    assert typed(through_json(value)) == typed(value)


def test_what_is_json_already_is_written_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "\u2028"}]}
    assert encode_value(value, "it") == value


def test_not_a_number_stays_that() -> None:
    back = through_json(float("nan"))
    assert back != back


@pytest.mark.parametrize("value", [object(), {"a": [open]}, {1: (object,)}, int])
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    with pytest.raises(RecordError, match=r"the slot holds a .*, which cannot be saved"):
        encode_value(value, "the slot")


@pytest.mark.parametrize("stored", [{"$odd": 1}, {"$date": "tomorrow"}, {"$date": "2026-03-02", "b": 1}, {"$set": 5}])
def test_what_was_not_written_so_is_refused(stored: Any) -> None:
    with pytest.raises(RecordCorrupt, match="stored state"):
        decode_value(stored)
