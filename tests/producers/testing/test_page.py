"""docs/channels.md is tried: its distribution is installed, and its test runs against the example."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from sdqueue_producers import Caps, make_channel

from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings, installed_channels
from tests.producers.testing.chirp import PATH, SECRET, TOKEN, install

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "channels.md").read_text()
(TEST,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.timeout(300)
async def test_its_test_passes(tmp_path: Path) -> None:
    """As it stands, beside the example."""
    (tmp_path / "sdqueue_chirp.py").write_text(PATH.read_text())
    (tmp_path / "test_chirp.py").write_text(TEST)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error"),
        *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-o", "pythonpath=."),
        "test_chirp.py",
        cwd=tmp_path, stdout=PIPE, stderr=STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert re.search(r"^\d{2} passed, 2 skipped", said.decode(), re.MULTILINE), said.decode()


async def test_what_it_registers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that the page gives it, with its settings out of the environment."""
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sdqueue_chirp", raising=False)
    assert "chirp" in installed_channels()
    context: object = None
    monkeypatch.setenv("SDQUEUE_CHIRP_SECRET", SECRET)
    with pytest.raises(ConfigurationError, match="SDQUEUE_CHIRP_TOKEN"):
        make_channel("chirp", context)  # type: ignore[arg-type]
    monkeypatch.setenv("SDQUEUE_CHIRP_TOKEN", TOKEN)
    channel = make_channel("chirp", context)  # type: ignore[arg-type]
    assert channel.name == "chirp"
    # And its settings are taken for settings.
    monkeypatch.chdir(tmp_path)
    assert "SDQUEUE_CHIRP_TOKEN" not in Settings.unknown_variables()
    (tmp_path / "sdqueue.toml").write_text('[chirp]\napi_url = "http://127.0.0.1:1"\n')
    Settings.load()
    assert vars(make_channel("chirp", context))["_api"] == "http://127.0.0.1:1"  # type: ignore[arg-type]


def test_the_project_that_it_shows_is_the_one_that_is_installed() -> None:
    project = tomllib.loads(PROJECT)["project"]
    assert project["entry-points"]["sdqueue.channels"] == {"chirp": "sdqueue_chirp:make_channel"}


def test_what_it_names_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    variables = {v for v in re.findall(r"SDQUEUE_[A-Z_]*[A-Z]", PAGE) if not v.startswith("SDQUEUE_CHIRP_")}
    assert {v for v in variables if v.removeprefix("SDQUEUE_").lower() not in Settings.model_fields} == set()
    caps = PAGE[PAGE.index("`caps = Caps") : PAGE.index("`buckets(address)`")]
    fields = [name for row in re.findall(r"^\| (`.*?) \|", caps, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert set(fields) == set(Caps.__dataclass_fields__)
