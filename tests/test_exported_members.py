"""What is public is exported where it is looked for, and what is exported is public."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import sdqueue
from sdqueue import errors

PACKAGES = ["sdqueue"] + [
    f"sdqueue.{name}" for _, name, is_package in pkgutil.iter_modules(sdqueue.__path__) if is_package
]
EXPORTING = [name for name in PACKAGES if name not in ("sdqueue.cli", "sdqueue.schemas")]
MODULES = [info.name for info in pkgutil.walk_packages(sdqueue.__path__, "sdqueue.") if "__main__" not in info.name]


def _public(module: ModuleType) -> set[str]:
    """Names that a package's own ``__init__`` brings in, but for its modules."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }


@pytest.mark.parametrize("name", EXPORTING)
def test_what_a_package_brings_in_is_in_its_all(name: str) -> None:
    module = importlib.import_module(name)
    public = _public(module)
    assert set(getattr(module, "__all__", ())) == public if public else not hasattr(module, "__all__")


@pytest.mark.parametrize("name", EXPORTING[1:])  # the names at the top are in groups
def test_an_all_is_sorted_and_has_nothing_twice(name: str) -> None:
    exported = list(getattr(importlib.import_module(name), "__all__", ()))
    assert len(set(exported)) == len(exported)
    key = {n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n) for n in exported}
    assert exported == sorted(exported, key=key.__getitem__)


def test_every_error_is_at_the_top() -> None:
    kinds = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert kinds <= set(sdqueue.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_nothing_is_defined_at_the_top() -> None:
    defined = [n for n in sdqueue.__all__ if getattr(getattr(sdqueue, n), "__module__", "") == "sdqueue"]
    assert defined == []


def test_its_names_can_be_had_from_several_threads_at_once() -> None:
    """Given a process in which none was asked for, and threads that ask for them and for modules behind them."""
    code = (
        "import sys, threading, sdqueue\n"
        "sys.setswitchinterval(1e-6)\n"
        "asking = [lambda: sdqueue.Client, lambda: __import__('sdqueue.deadletters'), lambda: sdqueue.Settings]\n"
        "threads = [threading.Thread(target=ask) for ask in asking]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


LAYERS = {
    "sdqueue.errors": [],
    "sdqueue.messages": ["errors"],
    "sdqueue.agents": ["errors"],
    "sdqueue.sessions": ["agents", "errors", "tls", "urls"],
    "sdqueue.streaming": ["agents", "errors", "messages", "sessions", "tls", "urls"],
    "sdqueue.brokers": ["errors", "messages", "tls", "urls"],
    "sdqueue.deadletters": ["agents", "brokers", "errors", "messages", "sessions", "tls", "urls"],
    "sdqueue.observe": ["errors", "messages"],
    "sdqueue.consumer": [
        *("agents", "brokers", "channels", "errors", "messages", "observe", "sessions", "streaming", "tls", "urls"),
    ],
    "sdqueue.resharding": [
        *("agents", "brokers", "channels", "consumer", "errors", "messages", "observe", "sessions", "streaming"),
        *("tls", "urls"),
    ],
}
"""What each layer may import of the others: imports run one way (design, section 2)."""

PROBE = """
import sys, types, pathlib
root = types.ModuleType("sdqueue")
root.__path__ = [sys.argv[2]]
sys.modules["sdqueue"] = root
__import__(sys.argv[1])
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("sdqueue.")}))
"""


@pytest.mark.parametrize(("name", "allowed"), LAYERS.items())
def test_imports_run_one_way(name: str, allowed: list[str]) -> None:
    """Each layer is usable alone."""
    output = subprocess.run(
        [sys.executable, "-c", PROBE, name, sdqueue.__path__[0]], capture_output=True, text=True, check=True
    ).stdout
    assert set(output.split()) <= {*allowed, name.split(".")[1]}
