"""The committed JSON Schemas are those of the models, and say what the wire contract says."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import TypeAdapter

from sdqueue.cli.schemas import WIRE_SCHEMAS, schema_of, schema_text
from sdqueue.cli.topology import schema


def committed(name: str) -> dict[str, Any]:
    text = (files("sdqueue") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Any]).validate_json(text)


@pytest.mark.parametrize("name", WIRE_SCHEMAS)
def test_the_committed_schema_is_that_of_the_model(name: str) -> None:
    """Write it with ``sdqueue topology schema --write sdqueue/schemas``."""
    assert committed(name) == schema_of(name)


def test_the_least_that_a_turn_has() -> None:
    turn = committed("inbound-turn")
    assert turn["required"] == ["session_id", "text"]
    assert turn["properties"]["kind"]["enum"] == ["message", "assist", "reset", "cancel"]
    assert turn["properties"]["session_id"]["maxLength"] == 256
    assert {"type": "number"} in turn["properties"]["created_at"]["anyOf"]


@pytest.mark.parametrize("name", WIRE_SCHEMAS)
def test_unknown_fields_are_allowed(name: str) -> None:
    """A newer producer can talk to an older consumer."""
    assert committed(name).get("additionalProperties", True) is not False


def test_the_command_writes_compares_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "schemas"
    schema(name=None, write=folder, check=None)
    assert {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {
        name: schema_text(name) for name in WIRE_SCHEMAS
    }
    schema(name=None, write=None, check=folder)
    assert capsys.readouterr().out == ""

    schema(name="inbound-turn", write=None, check=None)
    assert json.loads(capsys.readouterr().out) == schema_of("inbound-turn")

    (folder / "inbound-turn.json").write_text("{}", encoding="utf-8")
    with pytest.raises(typer.Exit):
        schema(name=None, write=None, check=folder)
    assert "inbound-turn.json is not the schema of this release" in capsys.readouterr().out
