"""The suite for states can fail: each broken state is caught by the test that is there for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.producers.broken import not_caught
from tests.producers.state.broken_states import BROKEN


@pytest.mark.timeout(300)
async def test_each_broken_state_is_caught(tmp_path: Path) -> None:
    assert len(BROKEN) == 20
    assert await not_caught("tests/producers/state/broken_states.py", BROKEN, tmp_path) == []
