"""Every Redis of deploy/ keeps what it has promised: a turn is acknowledged because Redis has said that it is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("file", ["compose/redis.conf", "security/redis/redis.conf"])
def test_what_is_answered_is_on_the_disk_and_nothing_is_thrown_away(file: str) -> None:
    """A snapshot besides the log is of no use, and one that fails stops all writes (stop-writes-on-bgsave-error)."""
    lines = (line.partition(" ") for line in (DEPLOY / file).read_text().splitlines())
    said = {name: value for name, _, value in lines}
    wanted = {"appendonly": "yes", "appendfsync": "always", "save": '""', "maxmemory-policy": "noeviction"}
    assert {name: said.get(name) for name in wanted} == wanted
