"""docs/deploy.md is held against the code: the metrics, settings, commands, files and headings that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from sdqueue_producers.metrics import ProducerMetrics
from sdqueue_producers.openai.settings import OpenAISettings
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.telegram.settings import TelegramSettings
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webhook.settings import WebhookSettings
from typer.testing import CliRunner

from sdqueue.cli.app import app
from sdqueue.observe.metrics import MetricsObserver
from sdqueue.settings import Settings

TOP = Path(__file__).parent.parent
FOLDER = TOP / "docs"
PAGE = (FOLDER / "deploy.md").read_text("utf-8")
CHANNELS = (OpenAISettings, SlackSettings, TelegramSettings, WebchatSettings, WebhookSettings)


def test_every_metric_it_names_is_served() -> None:
    registry = CollectorRegistry()
    MetricsObserver(registry)
    ProducerMetrics(registry)
    served = {metric.name + suffix for metric in registry.collect() for suffix in _suffixes(metric.type)}

    named = set(re.findall(r"\bsdqueue_[a-z_]+", PAGE)) - _settings()
    assert len(named) >= 15
    assert named - served == set()


def test_every_label_it_asks_for_is_one_of_the_metric() -> None:
    """``sum by (reason)`` over a metric without that label would be one line without a name."""
    registry = CollectorRegistry()
    MetricsObserver(registry)
    ProducerMetrics(registry)
    labels = {metric.name: set(_labels(registry, metric.name)) for metric in registry.collect()}

    asked = re.findall(r"sum by \((\w+)\) \((?:increase|rate)\((sdqueue_[a-z_]+?)(?:_total|_bucket)\[", PAGE)
    assert asked
    for label, metric in asked:
        assert label in labels[metric] | {"le"}, metric


def test_every_setting_it_names_exists() -> None:
    named = {name.removeprefix("SDQUEUE_").lower() for name in re.findall(r"SDQUEUE_[A-Z_]*[A-Z]", PAGE)}
    channels = {f"{c.channel}_{name}" for c in CHANNELS for name in c.model_fields}

    assert named - Settings.model_fields.keys() - channels == set()


def test_every_link_leads_somewhere() -> None:
    for file, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", PAGE):
        page = FOLDER / file if file else FOLDER / "deploy.md"
        assert page.exists(), file
        if heading:
            assert heading in _headings(page), f"{file}#{heading}"


def test_every_command_and_program_it_names_exists() -> None:
    for words in re.findall(r"`(?:SDQUEUE_\w+=\w+ )?sdqueue ([a-z][a-z ]*[a-z])", PAGE):
        result = CliRunner().invoke(app, [*words.split(), "--help"])
        assert result.exit_code == 0, f"sdqueue {words}"
    for module in re.findall(r"python -m ([\w.]+)", PAGE):
        assert (TOP / f"{module.replace('.', '/')}.py").exists(), module
    for file in re.findall(r"python (\w+/[\w./]+\.py)", PAGE):
        assert (TOP / file).exists(), file


def _suffixes(kind: str) -> tuple[str, ...]:
    return {"counter": ("_total",), "histogram": ("", "_bucket", "_count", "_sum")}.get(kind, ("",))


def _labels(registry: CollectorRegistry, name: str) -> tuple[str, ...]:
    collector = registry._names_to_collectors.get(name) or registry._names_to_collectors[f"{name}_total"]
    found: tuple[str, ...] = collector._labelnames  # type: ignore[attr-defined]  # every one of ours has them
    return found


def _settings() -> set[str]:
    """Files of secrets are called like metrics."""
    return {f"sdqueue_{name}" for name in Settings.model_fields}


def _headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
