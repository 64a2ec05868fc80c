"""``sdqueue settings``: all settings with their values, and where these were read."""

from __future__ import annotations

import json

from rich import box
from rich.console import Console
from rich.table import Table

from sdqueue.cli.options import EVERYTHING, Given, JsonOption, takes_settings
from sdqueue.settings import Settings


@takes_settings(*EVERYTHING)
async def settings(given: Given, as_json: JsonOption = False) -> None:
    """Show all settings: value, where it was read, and what it means. Passwords are masked.

    Every setting is an environment variable with the prefix SDQUEUE_, a line of .env, a key of sdqueue.toml (or of
    the file that SDQUEUE_CONFIG names), and an option. A wrong value is named and nothing starts.
    """
    loaded = Settings.load(**given)
    values = loaded.masked()
    if as_json:
        rows = {
            name: {"value": values[name], "source": loaded.origin(name), "description": field.description}
            for name, field in Settings.model_fields.items()
        }
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", style="bold")
    table.add_column("from", no_wrap=True)
    table.add_column("meaning")
    for name, field in Settings.model_fields.items():
        table.add_row(f"SDQUEUE_{name.upper()}", str(values[name]), loaded.origin(name), field.description)
    Console().print(table, markup=False)
