"""``topology``: what is declared, shown and refused."""

from __future__ import annotations

import json
import re

from tests.cli.place import Place


async def test_topology_is_applied_and_shown(place: Place) -> None:
    missing = json.loads((await place.run("topology", "show", "--json")).out)
    assert (missing["complete"], missing["queues"]["sdqueue.turns.0000"]) == (False, None)

    applied = await place.run("topology", "apply")
    assert (applied.code, applied.out) == (
        0,
        "sdqueue: 4 partitions are declared on sqlite:///.sdqueue/broker.db\n",
    )
    assert (await place.run("topology", "apply")).code == 0
    await place.run("send", "a", "x")  # partition 3 of 4
    shown = json.loads((await place.run("topology", "show", "--json")).out)
    assert (shown["complete"], shown["queues"]["sdqueue.turns.0003"]) == (True, 1)
    table = await place.run("topology", "show")
    assert re.search(r"sdqueue\.turns\.0003 +1 *\n", table.out)
    assert "4 partitions, 3 of them empty" in table.out

    other = await place.run("topology", "apply", "--partitions", "8")
    assert other.code == 1
    assert "4 partitions" in other.err
