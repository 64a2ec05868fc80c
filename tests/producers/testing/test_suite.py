"""The suite for channels can fail: each broken channel is caught by the test that is there for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.producers.broken import not_caught
from tests.producers.testing.broken import BROKEN, Whole
from tests.producers.testing.chirp import ChirpSuite


class TestWhole(ChirpSuite):
    """A channel with everything that one may have passes."""

    def kind(self) -> Any:
        return Whole


@pytest.mark.timeout(300)
async def test_each_broken_channel_is_caught(tmp_path: Path) -> None:
    assert len(BROKEN) == 45
    assert await not_caught("tests/producers/testing/broken_suites.py", BROKEN, tmp_path) == []
