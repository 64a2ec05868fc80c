"""A language model with tools, on any server that has OpenAI's API. Run it::

    cd examples && OPENAI_API_KEY=… sdqueue dev --agent tool_calling:make

``OPENAI_BASE_URL`` names another server than OpenAI's. The order is placed once however often the turn has to run: the
book of orders has the turn's id as its key.
"""

import os
import sqlite3
from contextlib import closing

from sdqueue import LLMAgent, current_turn

STOCK = {"apples": 12, "pears": 0}


def in_stock(item: str) -> int:
    """How many of an item there are."""
    return STOCK.get(item, 0)


def order(item: str, count: int) -> str:
    """Place an order. Only what is in stock can be ordered."""
    if count > in_stock(item):
        raise ValueError(f"only {in_stock(item)} {item} in stock")  # the model is told, and can say so
    turn = current_turn()
    key = f"{turn.turn_id}:order:{item}" if turn else None
    with closing(sqlite3.connect(os.environ.get("ORDERS_DB", "orders.db"))) as book, book:
        book.execute("CREATE TABLE IF NOT EXISTS orders (key TEXT UNIQUE, item TEXT, count INTEGER)")
        book.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?)", (key, item, count))
    return f"{count} {item} ordered"


make = LLMAgent.factory(
    llm=f"openai/{os.environ.get('MODEL', 'gpt-4o-mini')}",
    system_prompt="You sell fruit. Look whether there is enough before you place an order.",
    tools=[in_stock, order],
)
