"""The suite for channels can fail: each broken channel is caught by the test that is there for it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.producers.testing.broken import BROKEN, Whole
from tests.producers.testing.chirp import ChirpSuite

ROOT = Path(__file__).parents[3]


class TestWhole(ChirpSuite):
    """A channel with everything that one may have passes."""

    def kind(self) -> Any:
        return Whole


@pytest.mark.timeout(300)
async def test_each_broken_channel_is_caught(tmp_path: Path) -> None:
    """By the named test, and not because it could not be run."""
    page = "tests/producers/testing/broken_suites.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"),
        *(f"--junitxml={tmp_path / 'found.xml'}",),
        *(f"{page}::Test{kind.__name__}::{kind.caught_by}" for kind in BROKEN),
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 1, said.decode()
    cases = list(ElementTree.parse(tmp_path / "found.xml").iter("testcase"))
    found = {}
    for case in cases:
        trouble = [*case.findall("failure"), *case.findall("error")]
        name = case.get("classname", "").rpartition(".Test")[2]
        found[name] = found.get(name, False) or bool(trouble)
    assert {kind.__name__: True for kind in BROKEN} == found, said.decode()
    assert len(BROKEN) > 40
