"""``sdqueue settings``: all settings with their values, and where these were read."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sdqueue.cli.options import EVERYTHING, Given, JsonOption, takes_settings
from sdqueue.settings import Settings


@takes_settings(*EVERYTHING)
async def settings(given: Given, as_json: JsonOption = False) -> None:
    """Show all settings: value, where it was read, and what it means. Passwords are masked.

    Every setting is an environment variable with the prefix SDQUEUE_, a line of .env, a key of sdqueue.toml (or of
    the file that SDQUEUE_CONFIG names), and an option. A wrong value is named and nothing starts. Those of channels are
    shown where --channels names them; they are variables SDQUEUE_<CHANNEL>_…, or tables of sdqueue.toml.
    """
    loaded = Settings.load(**given)
    values = loaded.masked()
    rows = {
        name: {"value": values[name], "source": loaded.origin(name), "description": field.description}
        for name, field in Settings.model_fields.items()
    }
    rows |= _of_channels(loaded)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", style="bold")
    table.add_column("from", overflow="fold")  # may be a long path, which must not push the values out
    table.add_column("meaning")
    for name, row in rows.items():
        table.add_row(f"SDQUEUE_{name.upper()}", str(row["value"]), row["source"], row["description"])
    Console().print(table, markup=False)


def _of_channels(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings of the channels that are named, each as ``<channel>_<setting>``."""
    if not settings.channels:
        return {}
    try:
        from sdqueue_producers.registry import parse_channels, settings_of
    except ModuleNotFoundError:
        return {}  # `sdqueue producer` and `sdqueue doctor` say what to install
    rows = {}
    for channel in parse_channels(settings.channels):
        if (found := settings_of(channel)) is not None:
            loaded = found.load()
            values = loaded.model_dump(mode="json")  # secrets become asterisks
            for name, field in found.model_fields.items():
                rows[f"{channel.replace('-', '_')}_{name}"] = {
                    "value": values[name], "source": loaded.origin(name), "description": field.description or "",
                }  # fmt: skip
    return rows
