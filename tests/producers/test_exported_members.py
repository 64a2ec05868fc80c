"""What is public in sdqueue_producers is exported where it is looked for, and every module says what it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest
import sdqueue_producers

MODULES = [info.name for info in pkgutil.walk_packages(sdqueue_producers.__path__, "sdqueue_producers.")]
PACKAGES = ["sdqueue_producers"] + [
    info.name for info in pkgutil.walk_packages(sdqueue_producers.__path__, "sdqueue_producers.") if info.ispkg
]


def _public(module: ModuleType) -> set[str]:
    """Names that a package's own ``__init__`` brings in, but for its modules."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_brings_in_is_in_its_all(name: str) -> None:
    module = importlib.import_module(name)
    public = _public(module)
    assert set(getattr(module, "__all__", ())) == public if public else not hasattr(module, "__all__")


@pytest.mark.parametrize("name", PACKAGES)
def test_an_all_is_sorted_and_has_nothing_twice(name: str) -> None:
    exported = list(getattr(importlib.import_module(name), "__all__", ()))
    assert len(set(exported)) == len(exported)
    key = {n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n) for n in exported}
    assert exported == sorted(exported, key=key.__getitem__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_sdqueue_imports_no_producer() -> None:
    """Imports run one way; the commands look for it only when they are called."""
    code = "import sys, sdqueue, sdqueue.cli.app; print([n for n in sys.modules if n.startswith('sdqueue_producers')])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_a_channel_needs_no_test_tool() -> None:
    """Only the test kit imports pytest and hypothesis."""
    names = "'pytest', 'hypothesis', 'slack_sdk', 'standardwebhooks'"
    code = f"import sys, sdqueue_producers; print([n for n in ({names}) if n in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
