"""examples/channel.py passes the suite for channels."""

from __future__ import annotations

from tests.producers.testing.chirp import PATH, ChirpSuite


class TestExample(ChirpSuite):
    """As it stands."""


def test_it_has_under_a_hundred_lines() -> None:
    assert len(PATH.read_text().splitlines()) < 100
