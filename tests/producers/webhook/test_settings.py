"""What an operator can write, and what is refused at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sdqueue_producers.webhook import WebhookSettings

from sdqueue.errors import ConfigurationError
from tests.producers.webhook.tools import OTHER_SECRET, SECRET, TOKEN


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_endpoints_come_from_the_toml_file(tmp_path: Path) -> None:
    (tmp_path / "sdqueue.toml").write_text(
        f"""
        [webhook.endpoints.crm]
        secrets = ["{SECRET}", "{OTHER_SECRET}"]
        callback_url = "https://crm.example.com/replies"
        callback_secrets = ["{OTHER_SECRET}"]

        [webhook.endpoints.shop]
        tokens = ["{TOKEN}"]
        mode = "stream"
        """
    )
    settings = WebhookSettings.load()
    assert settings.endpoints["crm"].effective_mode == "callback"
    assert settings.endpoints["shop"].effective_mode == "stream"
    assert SECRET not in repr(settings)
    assert "crm.example.com" not in repr(settings)
    assert sum(settings.retry_s) == 75 * 3600 + 35 * 60 + 5


def test_endpoints_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_WEBHOOK_ENDPOINTS", json.dumps({"crm": {"secrets": [SECRET]}}))
    assert WebhookSettings.load().endpoints["crm"].effective_mode == "hold"


def test_what_is_no_json_in_the_environment_is_told_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDQUEUE_WEBHOOK_ENDPOINTS", f"{{crm: {SECRET}")
    with pytest.raises(ConfigurationError, match="SDQUEUE_WEBHOOK_ENDPOINTS: must be JSON") as caught:
        WebhookSettings.load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ({}, "open = true"),
        ({"open": True, "secrets": [SECRET]}, "one or the other"),
        ({"secrets": ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}, "whsec_"),
        ({"secrets": ["whsec_"]}, "24 bytes"),
        ({"secrets": ["whsec_c2hvcnQ="]}, "24 bytes"),
        ({"secrets": ["whsec_!!!"]}, "base64"),
        ({"tokens": ["short"]}, "16"),
        ({"tokens": ["sha256:abc"]}, "64"),
        ({"secrets": [SECRET], "callback_url": "https://crm.example.com/"}, "callback_secrets"),
        ({"secrets": [SECRET], "mode": "callback"}, "callback_url"),
        ({"secrets": [SECRET], "callback_url": "https://10.0.0.1/", "callback_secrets": [SECRET]}, "no public address"),
        ({"secrets": [SECRET], "callback_url": "http://x.lan/", "callback_secrets": [SECRET]}, "https://"),
        (
            {"secrets": [SECRET], "callback_url": "https://x.org/", "callback_secrets": [SECRET], "mode": "status"},
            "mode",
        ),
        ({"secrets": [SECRET], "allow_networks": ["10.0.0.1/8"]}, "10.0.0.1/8"),
        ({"secrets": [SECRET], "wait_s": 26}, "25"),
        ({"secrets": [SECRET], "secret": SECRET}, "crm.secret: there is no such setting"),
    ],
)
def test_an_endpoint_that_will_not_do_is_told_without_its_secrets(endpoint: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebhookSettings.load(endpoints={"crm": endpoint})
    assert told in str(caught.value)
    assert "SDQUEUE_WEBHOOK_ENDPOINTS: crm" in str(caught.value)
    for secret in (SECRET, "whsec_c2hvcnQ=", "short'"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["", "CRM", "a:b", "a/b", "a b", "x" * 41])
def test_names_of_endpoints(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a name is"):
        WebhookSettings.load(endpoints={name: {"secrets": [SECRET]}})
