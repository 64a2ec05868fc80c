"""The two session layers side by side: superdialog's, to show that what is asserted is really its, and ours."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import pytest

if importlib.util.find_spec("superdialog") is None and not os.environ.get("CI"):
    collect_ignore_glob = ["test_*.py"]  # in CI the imports fail


@dataclass(frozen=True)
class Layer:
    """A session layer: its names are attributes."""

    name: str

    def __getattr__(self, name: str) -> Any:
        modules = ["sdqueue"] if self.name == "sdqueue" else ["superdialog.session", "superdialog"]
        for module in modules:
            found = getattr(importlib.import_module(module), name, None)
            if found is not None:
                return found
        return pytest.skip(f"{name} came with superdialog 0.3")


@pytest.fixture(params=["superdialog", "sdqueue"])
def layer(request: pytest.FixtureRequest) -> Layer:
    """Each test with this runs on superdialog's classes and on ours."""
    return Layer(request.param)


@pytest.fixture
def init(layer: Layer) -> Any:
    """SessionInit; with an older superdialog a test of what came with it is skipped."""
    return layer.SessionInit
