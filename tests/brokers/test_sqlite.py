"""The SQLite broker: the suite, and what happens between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.testing.brokers import BrokerSuite, MakeBroker


class TestSQLiteBroker(BrokerSuite):
    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> MakeBroker:
        return lambda topology: SQLiteBroker(topology, tmp_path / "broker.db")
