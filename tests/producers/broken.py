"""Whether a conformance suite can fail: it is run on what is broken in one way each, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


async def not_caught(page: str, kinds: Sequence[Any], folder: Path) -> list[str]:
    """Which of these are not failed by the test that is named by their ``caught_by``.

    Parameters:
        page: the file of tests, with a class ``Test<name>`` for each.
        kinds: what is broken.
        folder: for the report.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"),
        *(f"--junitxml={folder / 'found.xml'}",),
        *(f"{page}::Test{kind.__name__}::{kind.caught_by}" for kind in kinds),
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 1, said.decode()
    caught = set()
    for case in ElementTree.parse(folder / "found.xml").iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            caught.add(case.get("classname", "").rpartition(".Test")[2])
    return [kind.__name__ for kind in kinds if kind.__name__ not in caught]
