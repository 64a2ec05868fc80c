"""docs/webhook.md and the code say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from sdqueue_producers.webhook import EndpointSettings, WebhookSettings
from sdqueue_producers.webhook.body import FIELDS

PAGE = (Path(__file__).parents[3] / "docs" / "webhook.md").read_text("utf-8")


@pytest.mark.parametrize("name", [*EndpointSettings.model_fields, *WebhookSettings.model_fields, *FIELDS])
def test_every_setting_and_field_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_example_of_a_configuration_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert tomllib.loads(example[1])
    (tmp_path / "sdqueue.toml").write_text(example[1])
    monkeypatch.chdir(tmp_path)
    assert WebhookSettings.load().endpoints["crm"].effective_mode == "callback"
