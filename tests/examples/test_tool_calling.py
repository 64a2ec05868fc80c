"""The tool-calling agent of ``examples/``, behind the queue, on a server of OpenAI's API over real HTTP."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sdqueue import Client
from tests.agents.openai_server import Calls, Fail, OpenAIServer, Say
from tests.examples.served import consumer


async def test_an_order_is_placed_once_though_the_turn_runs_twice(tmp_path: Path) -> None:
    """Given a server that fails after the order was placed, then the turn runs again, and there is one order."""
    book = tmp_path / "orders.db"
    async with OpenAIServer() as server:
        env = {
            "SDQUEUE_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
            "SDQUEUE_STORE_URL": f"sqlite:///{tmp_path}/sessions.db",
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "test",
            "ORDERS_DB": str(book),
            "MODEL": "test-model",
        }
        look, place = ("in_stock", {"item": "apples"}), ("order", {"item": "apples", "count": 3})
        server.script(
            Calls(("a", *look)), Calls(("b", *place)), Fail(503),
            Calls(("c", *look)), Calls(("d", *place)), Say("Three apples are on their way."),
            Calls(("e", "order", {"item": "pears", "count": 1})), Say("Sorry, no pears."),
        )  # fmt: skip
        async with (
            consumer("--agent", "tool_calling:make", env=env),
            Client.from_settings(broker_url=env["SDQUEUE_BROKER_URL"]) as client,
        ):
            reply = await client.ask("u", "three apples please")
            assert reply.text == "Three apples are on their way."
            assert [(call.name, call.arguments) for call in reply.tool_calls] == [look, place]
            assert (await client.ask("u", "and a pear")).text == "Sorry, no pears."

        told = [m for m in server.requests[-1].body["messages"] if m["role"] == "tool"]
        assert "only 0 pears in stock" in told[-1]["content"]
    with closing(sqlite3.connect(book)) as orders:
        assert orders.execute("SELECT item, count FROM orders").fetchall() == [("apples", 3)]
