"""deploy/systemd/: the units hold what they promise, on a machine that systemd has booted."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdqueue.cli.notifying import CLEAN_UP_S
from sdqueue.settings import Settings
from tests.conftest import refuse
from tests.deploy.engine import ROOT, Engine, EngineFailed
from tests.deploy.machine import Machine, machine
from tests.servers.process import Unavailable

UNITS = ROOT / "deploy" / "systemd"
EXPOSURE = 2.5
"""The level of `systemd-analyze security` that is not to be reached; 10 is a unit without any protection."""

AGENT = """
import asyncio, pathlib, subprocess, time

async def answer(text, history):
    said = [message.content for message in history if message.role == "user"]
    word, _, rest = text.partition(" ")
    if word == "sleep":
        pathlib.Path("began").touch()
        await asyncio.sleep(float(rest))
    if word == "block" and not pathlib.Path("blocked").exists():
        pathlib.Path("blocked").touch()
        time.sleep(600)
    if word == "reach":
        return reach()
    return f"{text}, after {said}"

def reach():
    got = []
    for what in (
        lambda: pathlib.Path("/opt/sdqueue/app/own.py").write_text(""),
        lambda: pathlib.Path("/etc/sdqueue/sdqueue.env").read_text(),
        lambda: list(pathlib.Path("/etc/sdqueue/credentials").iterdir()),
        lambda: list(pathlib.Path("/root").iterdir()),
        lambda: pathlib.Path("/proc/1/cmdline").read_text(),
        lambda: subprocess.run(["/bin/mount", "-t", "tmpfs", "none", "/tmp"], check=True, capture_output=True),
    ):
        try:
            what()
        except (OSError, subprocess.CalledProcessError):
            got.append("refused")
        else:
            got.append("reached")
    return " ".join(got)
"""


def service() -> configparser.SectionProxy:
    """The settings of the unit; of those that come several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "sdqueue@.service")
    return parser["Service"]


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which("systemd-analyze"):
        refuse("systemd-analyze is not installed (Debian's package systemd)", os.environ)
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_units_are_what_systemd_understands() -> None:
    result = analyze("verify", "--man=no", UNITS / "sdqueue@.service", UNITS / "sdqueue.target")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_unit_is_exposed_to_little() -> None:
    result = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", UNITS / "sdqueue@.service")
    assert result.returncode == 0, result.stdout


def test_the_times_of_the_unit_are_in_step_with_those_of_the_process() -> None:
    settings = Settings.model_fields
    assert float(service()["TimeoutStopSec"]) >= settings["grace_s"].default + CLEAN_UP_S
    assert float(service()["WatchdogSec"]) == settings["blocked_limit_s"].default


def test_the_settings_that_are_installed_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SDQUEUE_")]:
        monkeypatch.delenv(name)
    files = sorted(UNITS.glob("*.env"))
    assert [file.name for file in files] == ["consumer.env", "producer.env", "sdqueue.env"]
    for file in files:
        for name, value in re.findall(r"^#?([A-Z_]+)=(.*)$", file.read_text(), re.MULTILINE):
            monkeypatch.setenv(name, value)
    assert Settings.unknown_variables() == []
    assert Settings.load().store_url == "sqlite:////var/lib/sdqueue/sessions.db"


@pytest.fixture(scope="module")
def installed(engine: Engine) -> Iterator[Machine]:
    """A machine on which the page has been followed, with an agent of the tests' own."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(machine(engine))
        except Unavailable as why:
            refuse(f"no machine with systemd: {why}", os.environ)
        made.follow(UNITS / "README.md")
        made.write("/opt/sdqueue/app/bot.py", AGENT)
        made.run("systemctl restart sdqueue@consumer")
        yield made


pytestmark = pytest.mark.timeout(600)


@pytest.mark.engine
class TestBooted:
    def test_a_turn_comes_back(self, installed: Machine) -> None:
        assert installed.ask("ada", "hello") == "hello, after []"
        assert installed.ask("ada", "again") == "again, after ['hello']"
        assert installed.show("sdqueue@producer", "StatusText") == "ready: openai, http://127.0.0.1:8080"
        assert installed.show("sdqueue@consumer", "StatusText").startswith("ready: 64 partitions, agent bot:answer")
        assert installed.run("stat --format='%U %a' /var/lib/sdqueue/sessions.db") == "sdqueue 600"

    def test_probes_are_answered(self, installed: Machine) -> None:
        for port in (9464, 9465):
            assert installed.run(f"/opt/sdqueue/bin/sdqueue health --url http://127.0.0.1:{port}")

    def test_a_service_reaches_nothing_that_is_not_its_own(self, installed: Machine) -> None:
        assert installed.ask("eve", "reach") == "refused refused refused refused refused refused"

    def test_exposure_as_it_runs(self, installed: Machine) -> None:
        said = installed.run("systemd-analyze security --no-pager sdqueue@consumer | tail -n 1")
        found = re.search(r"sdqueue@consumer.service: ([\d.]+)", said)
        assert found
        assert float(found[1]) < EXPOSURE

    def test_a_stop_waits_for_a_running_turn_however_short_the_time_of_the_unit_is(self, installed: Machine) -> None:
        installed.write("/etc/systemd/system/sdqueue@consumer.service.d/stop.conf", "[Service]\nTimeoutStopSec=1\n")
        installed.run("systemctl daemon-reload && rm -f /var/lib/sdqueue/began")
        asking = installed.asking("bob", "sleep 6")
        installed.until(lambda: installed.run("ls /var/lib/sdqueue").find("began") >= 0)
        installed.run("systemctl stop sdqueue@consumer")
        assert asking.communicate(timeout=60)[0].strip() == "sleep 6, after []"
        assert installed.show("sdqueue@consumer", "Result") == "success"
        assert installed.show("sdqueue@consumer", "ExecMainStatus") == "0"
        installed.run("systemctl start sdqueue@consumer")
        assert installed.ask("bob", "and now") == "and now, after ['sleep 6']"

    def test_a_process_that_is_killed_is_started_again(self, installed: Machine) -> None:
        before = installed.show("sdqueue@consumer", "MainPID")
        installed.run("systemctl kill --signal=KILL sdqueue@consumer")
        assert installed.ask("carl", "still there?") == "still there?, after []"
        assert installed.show("sdqueue@consumer", "MainPID") not in (before, "0")
        assert int(installed.show("sdqueue@consumer", "NRestarts")) >= 1

    def test_a_blocked_loop_is_ended_with_the_line_that_blocked_it_in_the_journal(self, installed: Machine) -> None:
        installed.write("/etc/systemd/system/sdqueue@consumer.service.d/watch.conf", "[Service]\nWatchdogSec=4\n")
        installed.run("systemctl daemon-reload && systemctl restart sdqueue@consumer")
        assert installed.ask("dora", "block me") == "block me, after []"
        journal = installed.journal("sdqueue@consumer")
        assert "Watchdog timeout" in journal
        assert re.search(r'File "/opt/sdqueue/app/bot.py", line \d+ in answer', journal)
        installed.run("rm /etc/systemd/system/sdqueue@consumer.service.d/*.conf && systemctl daemon-reload")

    def test_a_second_consumer_takes_over_from_the_first(self, installed: Machine) -> None:
        installed.write("/etc/sdqueue/consumer-2.env", "SDQUEUE_METRICS_PORT=9466\n")
        installed.run("systemctl start sdqueue@consumer-2")
        try:
            installed.run("systemctl stop sdqueue@consumer")
            assert installed.ask("erin", "who is there?") == "who is there?, after []"
        finally:
            installed.run("systemctl start sdqueue@consumer && systemctl stop sdqueue@consumer-2")

    def test_commands_of_the_operator_see_what_the_services_see(self, installed: Machine) -> None:
        installed.run("printf %s amqp://never:used@localhost/ > /etc/sdqueue/credentials/broker_url")
        try:
            shown = json.loads(installed.run("sdqueue-admin settings --json"))
        finally:
            installed.run("rm /etc/sdqueue/credentials/broker_url")
        assert "sqlite:////var/lib/sdqueue/broker.db" in json.dumps(shown)  # the environment wins
        assert installed.run("sdqueue-admin send openai:me:ada 'by hand' --wait") == "by hand, after ['hello', 'again']"
        with pytest.raises(EngineFailed, match="ended with 2"):
            installed.run("sdqueue-admin no-such-command")

    def test_a_broker_that_is_away_does_not_fail_the_start(self, installed: Machine) -> None:
        elsewhere = "SDQUEUE_METRICS_PORT=9467\nSDQUEUE_BROKER_URL=amqp://127.0.0.1:1/\n"
        installed.write("/etc/sdqueue/consumer-away.env", elsewhere)
        installed.run("systemctl start sdqueue@consumer-away")
        try:
            assert installed.show("sdqueue@consumer-away", "ActiveState") == "active"
            installed.until(lambda: "127.0.0.1" in installed.show("sdqueue@consumer-away", "StatusText"))
            assert installed.show("sdqueue@consumer-away", "StatusText").startswith("not ready: ")
        finally:
            installed.run("systemctl stop sdqueue@consumer-away")
        assert installed.show("sdqueue@consumer-away", "Result") == "success"

    def test_wrong_settings_are_not_tried_again(self, installed: Machine) -> None:
        installed.write("/etc/sdqueue/consumer-wrong.env", "SDQUEUE_AGENT=nowhere:at_all\n")
        with pytest.raises(EngineFailed):
            installed.run("systemctl start sdqueue@consumer-wrong")
        assert installed.show("sdqueue@consumer-wrong", "ExecMainStatus") == "2"
        assert installed.show("sdqueue@consumer-wrong", "ActiveState") == "failed"  # else: activating, for another try
        assert installed.show("sdqueue@consumer-wrong", "NRestarts") == "0"
        assert "nowhere" in installed.journal("sdqueue@consumer-wrong")
        installed.run("systemctl reset-failed sdqueue@consumer-wrong")

    def test_no_credentials_are_no_trouble(self, installed: Machine) -> None:
        installed.run("mv /etc/sdqueue/credentials/openai_keys /root/")
        try:
            installed.run("systemctl restart sdqueue@consumer && sdqueue-admin settings")
        finally:
            installed.run("mv /root/openai_keys /etc/sdqueue/credentials/")

    def test_consumers_can_be_kept_from_the_secrets_of_platforms(self, installed: Machine) -> None:
        """By the words of the page."""
        (words,) = re.findall(r"```ini\n(.*?)```", (UNITS / "README.md").read_text(), re.DOTALL)
        listed = "nsenter --mount --target $(systemctl show -P MainPID sdqueue@consumer) ls /run/credentials/{}"
        listed = listed.format("sdqueue@consumer.service")
        installed.run("systemctl restart sdqueue@consumer")
        assert "sdqueue_openai_keys" in installed.run(listed)
        installed.run("install -d -m 700 /etc/sdqueue/consumer")
        installed.write("/etc/systemd/system/sdqueue@consumer.service.d/own.conf", words)
        installed.run("systemctl daemon-reload && systemctl restart sdqueue@consumer")
        try:
            assert "sdqueue_openai_keys" not in installed.run(f"{listed} || true")
            assert installed.ask("hugo", "hello") == "hello, after []"
        finally:
            installed.run("rm /etc/systemd/system/sdqueue@consumer.service.d/own.conf && systemctl daemon-reload")
            installed.run("systemctl restart sdqueue@consumer")

    def test_the_journal_has_json_lines_where_they_are_asked_for(self, installed: Machine) -> None:
        installed.write(
            "/etc/sdqueue/producer-2.env",
            "SDQUEUE_CHANNELS=openai\nSDQUEUE_PRODUCER_PORT=8081\nSDQUEUE_LOG_FORMAT=json\n",
        )
        installed.run("systemctl start sdqueue@producer-2 && systemctl stop sdqueue@producer-2")
        lines = [line for line in installed.journal("sdqueue@producer-2").splitlines() if line.startswith("{")]
        assert "listening" in {json.loads(line)["event"] for line in lines}

    def test_a_backup_of_a_machine_that_works_can_be_restored(self, installed: Machine) -> None:
        page = ROOT / "docs" / "one-machine.md"
        assert installed.ask("gina", "one") == "one, after []"
        asking = [installed.asking(f"busy-{number}", "sleep 2") for number in range(3)]
        installed.follow(page, "Backup")
        assert [said.communicate(timeout=60)[0].strip() for said in asking] == ["sleep 2, after []"] * 3
        assert installed.ask("gina", "lost") == "lost, after ['one']"

        installed.follow(page, "Restore")

        assert installed.ask("gina", "two") == "two, after ['one']"
        assert installed.run("ls /var/lib/sdqueue/*.db | xargs stat --format=%U | uniq") == "sdqueue"

    def test_sessions_survive_the_machine(self, installed: Machine) -> None:
        """Given a conversation / When the machine is switched off and on / Then all is up again and remembers it."""
        installed.ask("frida", "remember me")
        installed.boot()
        assert installed.ask("frida", "well?") == "well?, after ['remember me']"
