"""Tool: what a model is told of a function, how it is called, and what becomes of what it does."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from sdqueue import ConfigurationError, Tool, TurnContext, current_turn
from sdqueue.agents import set_current_turn
from sdqueue.agents.llm.completion import RequestedCall
from sdqueue.agents.llm.tools import Toolbox


class Guest(BaseModel):
    name: str
    age: int = 30


def book(
    day: date,
    guests: list[Guest],
    table: Annotated[Literal["window", "door"], Field(description="Where to sit.")] = "door",
    *,
    note: str | None = None,
) -> str:
    """Book a table.

    Ask for the day first.
    """
    return f"{day:%d.%m.%Y} {[(guest.name, guest.age) for guest in guests]} {table} {note}"


async def run(tool: Any, timeout: float = 10, **arguments: Any) -> str:
    return await (tool if isinstance(tool, Tool) else Tool.of(tool)).run(arguments, timeout=timeout)


def test_type_hints_and_docstring_become_the_description() -> None:
    tool = Tool.of(book)
    assert (tool.name, tool.description) == ("book", "Book a table.\n\nAsk for the day first.")
    schema = dict(tool.parameters)
    assert schema.pop("$defs")["Guest"]["required"] == ["name"]
    assert schema == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "guests": {"type": "array", "items": {"$ref": "#/$defs/Guest"}},
            "table": {"type": "string", "enum": ["window", "door"], "default": "door", "description": "Where to sit."},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["day", "guests"],
        "additionalProperties": False,
    }


async def test_a_function_gets_its_arguments_as_its_hints_say() -> None:
    told = await run(book, day="2026-08-09", guests=[{"name": "Zoë"}], table="window")
    assert told == "09.08.2026 [('Zoë', 30)] window None"
    refused = await run(book, day="soon", guests=[])
    assert refused.startswith("Error: wrong arguments: day: Input should be a valid date")
    assert await run(book, day="2026-08-09", guests=[{"age": 3}]) == (
        "Error: wrong arguments: guests.0.name: Field required"
    )


async def test_parameters_may_be_called_anything() -> None:
    def odd(json: int, schema: int, copy: int, self: int, _hidden: int, model_config: int, title: int) -> int:
        return json + schema + copy + self + _hidden + model_config + title

    names = ["json", "schema", "copy", "self", "_hidden", "model_config", "title"]
    assert list(Tool.of(odd).parameters["properties"]) == names
    assert await Tool.of(odd).run(dict.fromkeys(names, 1), timeout=1) == "7"


def positional(first: int, second: int = 2, /, *, third: int) -> int:
    return 100 * first + 10 * second + third


class Shop:
    """Tools may be methods and objects."""

    def price(self, article: str) -> str:
        """What it costs."""
        return f"{article}: 3 €"

    async def __call__(self, article: str) -> str:
        return f"{article} is bought"


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        (positional, {"first": 1, "third": 3}, "123"),
        (Shop().price, {"article": "tea"}, "tea: 3 €"),
        (Tool.of(Shop(), name="buy"), {"article": "tea"}, "tea is bought"),
        (Tool.of(partial(positional, 7), name="seven"), {"third": 1}, "721"),
        (Tool.of(lambda a, b=1: [a, b], name="untyped"), {"a": {"x": 1}}, '[{"x":1},1]'),
        (Tool("raw", "as it is", {"type": "object"}, lambda given: given), {"any": "thing"}, '{"any":"thing"}'),
    ],
    ids=["positional", "method", "object", "partial", "lambda", "raw"],
)
async def test_anything_that_can_be_called_is_a_tool(tool: Any, arguments: dict[str, Any], told: str) -> None:
    assert await run(tool, **arguments) == told


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("as it is\u2028", "as it is\u2028"),
        (None, "null"),
        ({"day": date(2026, 8, 9), "sum": Decimal("1.10")}, '{"day":"2026-08-09","sum":"1.10"}'),
        ([Guest(name="Bo")], '[{"name":"Bo","age":30}]'),
        (float("nan"), "NaN"),
        (Shop, "<class 'tests.agents.test_llm_tools.Shop'>"),
    ],
    ids=["text", "nothing", "values", "model", "nan", "anything"],
)
async def test_a_result_is_told_as_text_or_json(result: Any, told: str) -> None:
    assert (await run(Tool.of(lambda: result, name="give"))).strip('"') == told


async def fails() -> None:
    raise LookupError("no such order: 7")


async def exits() -> None:
    sys.exit(3)


def exits_in_its_thread() -> None:
    sys.exit(3)


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def times_out_by_itself() -> None:
    raise TimeoutError("the shop is closed")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def fails_without_words() -> None:
    raise Unprintable


async def takes_long() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        (fails, "Error: LookupError: no such order: 7"),
        (fails_without_words, "Error: Unprintable: (its message cannot be shown: __str__ raised RuntimeError)"),
        (exits, "Error: SystemExit: 3"),
        (exits_in_its_thread, "Error: SystemExit: 3"),
        (cancels_itself, "Error: the tool was cancelled"),
        (times_out_by_itself, "Error: TimeoutError: the shop is closed"),
        (Tool.of(takes_long, timeout_s=0.01), "Error: no result within 0.01 s"),
        (Tool.of(lambda: b"\xff\xfe", name="binary"), "Error: "),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", "")),
)
async def test_whatever_a_tool_does_is_told_to_the_model(tool: Any, told: str) -> None:
    assert (await run(tool)).startswith(told)


async def test_a_tool_in_a_thread_is_not_waited_for_beyond_its_time() -> None:
    go_on = threading.Event()
    assert await run(go_on_when(go_on), timeout=0.05) == "Error: no result within 0.05 s"
    go_on.set()


def go_on_when(event: threading.Event) -> Callable[[], bool]:
    def slow() -> bool:
        return event.wait(10)

    return slow


async def test_a_tool_knows_the_turn_in_its_task_and_in_its_thread() -> None:
    def in_a_thread() -> str:
        turn = current_turn()
        assert turn is not None
        assert threading.current_thread() is not threading.main_thread()
        return f"{turn.turn_id} {turn.session_id} {turn.attempt}"

    async def in_a_task() -> str:
        return await asyncio.to_thread(in_a_thread)

    set_current_turn(TurnContext("t1", "s", 3))
    toolbox = Toolbox([in_a_thread, in_a_task])
    calls = [RequestedCall("c1", "in_a_thread", ""), RequestedCall("c2", "in_a_task", "{}")]
    assert [said for _, said in await toolbox.run(calls, timeout=10)] == ["t1 s 3", "t1 s 3"]


async def test_a_cancelled_turn_cancels_its_tools_and_waits_for_them() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def careful() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    running = asyncio.create_task(Toolbox([careful]).run([RequestedCall("c", "careful", "")], timeout=10))
    await began.wait()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert ended.is_set()


def everything(*args: int) -> None: ...


def anything(**kwargs: int) -> None: ...


def opaque(lock: threading.Event) -> None: ...


def unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([lambda: 1], "a tool is called '<lambda>'; models need"),
        ([Shop()], "a tool is called ''; models need"),
        ([everything], r"tool 'everything': its parameters .*\*args: int stands for any number"),
        ([anything], r"\*\*kwargs: int stands for any number"),
        ([opaque], "tool 'opaque': its parameters cannot be told to a model"),
        ([unknown], "tool 'unknown': .*'Nowhere' is not defined"),
        ([fails, fails], "two tools are called 'fails'"),
        (["fails"], "'fails' is no tool"),
    ],
)
def test_what_is_no_tool_is_refused_before_any_turn(tools: list[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Toolbox(tools)
