"""Who imported from superdialog.session imports the same names from sdqueue, and calls them as before."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import superdialog
import superdialog.session

import sdqueue
from tests.superdialog_sessions.brains import BRAINS

NAMES = superdialog.session.__all__
CLASSES = [name for name in NAMES if not getattr(getattr(superdialog.session, name), "_is_protocol", False)]
VALUES = ["Agent", "ChatContext", "ChatMessage", "FlowState", "StreamChunk", "TurnResult"]
"""What of superdialog's other names a user of its sessions needs."""


def test_the_names_are_the_ones_that_were_known() -> None:
    """A later superdialog may have more; then this list, and docs/drop-in.md, are to be looked at."""
    assert set(NAMES) - {"SessionInit"} == {
        "AsyncioLockBackend", "InMemorySessionStore", "LockBackend", "NullSessionStore", "Session", "SessionHandle",
        "SessionRecord", "SessionStore", "SessionWorker",
    }  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *VALUES])
def test_every_name_is_there(name: str) -> None:
    assert name in sdqueue.__all__


@pytest.mark.parametrize("name", [*CLASSES, "ChatContext", "ChatMessage", "FlowState", "StreamChunk", "TurnResult"])
def test_a_class_is_made_as_before(name: str) -> None:
    theirs = getattr(superdialog.session, name, None) or _theirs(name)
    _check(inspect.signature(theirs), inspect.signature(getattr(sdqueue, name)), f"{name}()")


@pytest.mark.parametrize("name", [*NAMES, "ChatContext", "FlowState"])
def test_its_methods_are_called_as_before(name: str) -> None:
    theirs, ours = getattr(superdialog.session, name, None) or _theirs(name), getattr(sdqueue, name)
    for method, function in vars(theirs).items():
        if method.startswith("_") or isinstance(function, classmethod):
            continue
        assert hasattr(ours, method), f"{name}.{method}"
        if inspect.isfunction(function):
            _check(inspect.signature(function), inspect.signature(getattr(ours, method)), f"{name}.{method}()")
        elif isinstance(function, property):
            assert isinstance(getattr(ours, method), property), f"{name}.{method}"


@pytest.mark.parametrize("name", ["Session", "SessionRecord", "ChatContext", "ChatMessage", "FlowState", "TurnResult"])
def test_its_fields_have_the_same_names_and_defaults(name: str) -> None:
    theirs = getattr(superdialog.session, name, None) or _theirs(name)
    ours = {field.name: field for field in dataclasses.fields(getattr(sdqueue, name))}
    for field in dataclasses.fields(theirs):
        assert field.default == ours[field.name].default
        assert (field.default_factory is dataclasses.MISSING) == (
            ours[field.name].default_factory is dataclasses.MISSING
        )


def test_what_superdialog_checks_at_run_time_holds_for_ours(tmp_path: Path) -> None:
    """Its protocols can be asked with isinstance, and so can ours."""
    stores: list[Any] = [
        sdqueue.InMemorySessionStore(), sdqueue.NullSessionStore(), sdqueue.FileSessionStore(tmp_path),
        sdqueue.SQLiteSessionStore(tmp_path / "s.db"), sdqueue.RedisSessionStore("redis://127.0.0.1:1"),
    ]  # fmt: skip
    locks: list[Any] = [
        sdqueue.AsyncioLockBackend(), sdqueue.FileLockBackend(tmp_path), sdqueue.RedisLockBackend("redis://127.0.0.1:1")
    ]  # fmt: skip
    assert all(isinstance(store, superdialog.session.SessionStore) for store in stores)
    assert all(isinstance(lock, superdialog.session.LockBackend) for lock in locks)
    assert isinstance(superdialog.session.InMemorySessionStore(), sdqueue.SessionStore)
    assert isinstance(superdialog.session.AsyncioLockBackend(), sdqueue.LockBackend)
    for make in BRAINS.values():
        assert isinstance(make(), sdqueue.Agent)


def _theirs(name: str) -> Any:
    return getattr(superdialog, name, None) or getattr(__import__("superdialog.stream", fromlist=[name]), name)


def _check(theirs: inspect.Signature, ours: inspect.Signature, where: str) -> None:
    """Every call that theirs takes is one that ours takes."""
    positional = [p.name for p in ours.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for at, parameter in enumerate(theirs.parameters.values()):
        assert parameter.name in ours.parameters or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ), f"{where} takes no {parameter.name}"
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert positional[at] == parameter.name, f"{where} has {parameter.name} at another place"
        if parameter.default is not parameter.empty:
            assert ours.parameters[parameter.name].default is not parameter.empty, f"{where} needs {parameter.name}"
    for name, parameter in ours.parameters.items():
        if name not in theirs.parameters and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.default is not parameter.empty, f"{where} needs {name}, which superdialog's has not"


def test_the_lines_of_the_documentation_are_stores_and_locks(tmp_path: Path) -> None:
    """Each cell of the table in docs/drop-in.md is what can be written behind ``store=`` or ``lock_backend=``."""
    text = (Path(__file__).parents[2] / "docs" / "drop-in.md").read_text().replace("/var/lib/bot", str(tmp_path))
    cells = re.findall(r"`((?:\w+)(?:SessionStore|LockBackend)\(\"[^`]*\"\))`", text)
    made = [eval(cell, vars(sdqueue)) for cell in cells]
    assert [isinstance(each, superdialog.session.SessionStore) for each in made] == [True, False] * 3
    assert [isinstance(each, superdialog.session.LockBackend) for each in made] == [False, True] * 3
