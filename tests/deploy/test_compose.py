"""deploy/compose: what its files say, and what it does when it is brought up, scaled, broken and stopped under load."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.composing import AGENT, FOLDER, Project
from tests.deploy.engine import AUTHORITIES, Engine, EngineFailed
from tests.deploy.judging import judge
from tests.servers.pip import pip_settings

COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name in SERVICES if name != "secrets"]


def of_service(name: str) -> str:
    """The id of a test. The bare names would say that it needs such a server."""
    return f"service_{name}"


# What the files say


@pytest.mark.parametrize("name", LASTING, ids=of_service)
def test_each_service_has_a_health_check_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES, ids=of_service)
def test_each_container_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", ["consumer", "producer"], ids=of_service)
def test_the_grace_of_a_drain_ends_before_the_engine_kills(name: str) -> None:
    grace_s = float(SERVICES[name]["environment"]["SDQUEUE_GRACE_S"])
    assert grace_s + 10 <= float(SERVICES[name]["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("name", ["consumer", "producer", "rabbitmq", "redis"], ids=of_service)
def test_each_service_waits_for_what_it_needs(name: str) -> None:
    needed = {service: condition["condition"] for service, condition in SERVICES[name]["depends_on"].items()}
    assert needed["secrets"] == "service_completed_successfully"
    if name in ("consumer", "producer"):
        assert needed["rabbitmq"] == needed["redis"] == "service_healthy"


def test_consumers_can_be_scaled() -> None:
    """A name or a port of the machine could be had by one container only."""
    assert not {"container_name", "ports", "hostname"} & SERVICES["consumer"].keys()


def test_only_the_producer_is_reached_and_only_from_this_machine() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["producer"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["producer"]["ports"])
    assert COMPOSE["networks"]["backend"]["internal"] is True
    assert SERVICES["rabbitmq"]["networks"] == SERVICES["redis"]["networks"] == ["backend"]


def test_sessions_and_turns_are_in_volumes_with_names() -> None:
    kept = {
        mount.split(":")[0]: mount.split(":")[1] for name in SERVICES for mount in SERVICES[name].get("volumes", [])
    }
    assert kept["rabbitmq-data"] == "/var/lib/rabbitmq"
    assert kept["redis-data"] == "/data"
    assert SERVICES["rabbitmq"]["hostname"]


# The secrets


def made(root: Path, *options: str) -> dict[str, str]:
    """Run the script; returns all files by path."""
    subprocess.run([sys.executable, FOLDER / "make_secrets.py", "--root", root, *options], check=True)
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    assert made(tmp_path) == made(tmp_path)


def test_secrets_are_made_anew_on_demand(tmp_path: Path) -> None:
    before, after = made(tmp_path), made(tmp_path, "--new")
    assert before.keys() == after.keys()
    assert not [path for path in before if before[path] == after[path]]


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    assert not [path for path in one if one[path] == other[path]]


def test_rabbitmq_has_the_hash_that_the_password_has(tmp_path: Path) -> None:
    files = made(tmp_path)
    (user,) = json.loads(files["rabbitmq/definitions.json"])["users"]
    decoded = base64.b64decode(user["password_hash"])
    salt, digest = decoded[:4], decoded[4:]
    assert digest == hashlib.sha256(salt + files["made/rabbitmq"].encode()).digest()


@pytest.mark.parametrize("server", ["rabbitmq", "redis"], ids=of_service)
def test_servers_have_hashes_only(tmp_path: Path, server: str) -> None:
    files = made(tmp_path)
    theirs = "".join(text for path, text in files.items() if path.startswith(f"{server}/"))
    assert theirs
    assert not [name for name in ("rabbitmq", "redis", "openai", "webchat") if files[f"made/{name}"] in theirs]


def test_consumers_have_no_secret_of_the_front_doors(tmp_path: Path) -> None:
    """Agents run there."""
    files = made(tmp_path)
    theirs = "".join(text for path, text in files.items() if path.startswith("consumer/"))
    assert files["made/rabbitmq"] in theirs
    assert files["made/openai"] not in theirs
    assert files["made/webchat"] not in theirs


# What judges


def evidence(*replies: tuple[str, list[str]], letters: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of a session with the turns a, b and c."""
    return {
        "sent": [("s", mark, 0.0) for mark in "abc"],
        "replies": [(mark, f"{mark}:1", "final", json.dumps(heard), 0.0) for mark, heard in replies],
        "letters": letters,
    }


GOOD = (("a", ["a"]), ("b", ["a", "b"]), ("c", ["a", "b", "c"]))


def test_a_good_load_is_clean() -> None:
    verdict = judge(evidence(*GOOD, GOOD[1]))
    assert verdict.clean
    assert (verdict.turns, verdict.sessions, verdict.repeats) == (3, 1, 1)


@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("lost", evidence(*GOOD[:2])),
        ("lost", evidence(*GOOD[:2], ("c", ["a", "c"]))),
        ("doubled", evidence(*GOOD[:2], ("c", ["a", "b", "b", "c"]))),
        ("doubled", evidence(*GOOD, ("c", ["a", "c"]))),
        ("disordered", evidence(*GOOD[:2], ("c", ["b", "a", "c"]))),
        ("failed", evidence(*GOOD, letters=("a",))),
    ],
)
def test_what_is_wrong_is_counted(what: str, bad: dict[str, Any]) -> None:
    verdict = judge(bad)
    assert getattr(verdict, what) == 1
    assert not verdict.clean


# What it does


@pytest.fixture(scope="module")
def project(engine: Engine, sdqueue_image: str) -> Iterator[Project]:
    """The deployment, with an agent that tells what it has heard; brought up by the first test."""
    project = Project(engine, sdqueue_image, SDQUEUE_AGENT_DIR=str(AGENT), SDQUEUE_AGENT="listing:answer")
    yield project
    project.remove()
    assert project.left() == {}


def said(project: Project, session: str, text: str) -> list[str]:
    """What the agent has heard in the session with this turn, by the command line in a container."""
    heard = json.loads(project.exec("producer", "sdqueue", "send", session, text, "--wait"))
    assert isinstance(heard, list)
    return heard


class Refused(Exception):
    """The front door has answered with an error; the argument is its status."""


def asked(project: Project, session: str, text: str, key: str) -> list[str]:
    """The same by HTTP, through the producer.

    Raises:
        Refused: with another status than 200.
    """
    request = urllib.request.Request(
        f"{project.url()}/v1/chat/completions",
        json.dumps({"model": "sdqueue", "messages": [{"role": "user", "content": text}]}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "X-Session-Id": session},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            heard = json.loads(json.load(response)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        error.close()
        raise Refused(error.code) from None
    assert isinstance(heard, list)
    return heard


def key_of(project: Project) -> str:
    return project.exec("producer", "cat", "/run/secrets/openai_key")


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_it_builds_its_image(engine: Engine, sdqueue_image: str, tmp_path: Path) -> None:
    """As README.md says for a machine that gets packages in a way of its own; all is in the cache of the engine."""
    settings, ca = pip_settings(), AUTHORITIES.exists()
    if ca:
        settings["cert"] = "/run/secrets/ca"
    lines = [f"{name} = {value}\n" for name, value in settings.items()]
    (tmp_path / "pip.conf").write_text("[global]\n" + "".join(lines))
    build = {"network": "host", "secrets": ["pip", *["ca"] * ca]}
    override = {
        "services": {name: {"build": build} for name in ("consumer", "producer", "secrets")},
        "secrets": {"pip": {"file": str(tmp_path / "pip.conf")}, "ca": {"file": str(AUTHORITIES)}},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(override))
    tag = f"{sdqueue_image}-compose"
    project = Project(engine, tag, files=[tmp_path / "build.yaml"])
    try:
        project.compose("build", timeout_s=800)
        assert engine.run("run", "--rm", tag, "--help")
    finally:
        engine.attempt("image", "rm", tag)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_one_command_brings_it_up_and_a_turn_comes_back(project: Project) -> None:
    project.up()
    assert said(project, "ada", "hello") == ["hello"]
    assert said(project, "ada", "again") == ["hello", "again"]


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_a_turn_comes_back_by_http(project: Project) -> None:
    key = key_of(project)
    assert asked(project, "bob", "hello", key) == ["hello"]
    assert asked(project, "bob", "again", key) == ["hello", "again"]
    with urllib.request.urlopen(f"{project.url()}/webchat/", timeout=30) as response:
        assert b"<html" in response.read()


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_who_has_no_secret_is_let_in_nowhere(project: Project) -> None:
    with pytest.raises(Refused, match="401"):
        asked(project, "eve", "hello", "not-the-right-key-at-all")
    assert "NOAUTH" in project.exec("redis", "redis-cli", "get", "x")
    guest = ("sdqueue", "send", "eve", "hello", "--broker-url", "amqp://guest:guest@rabbitmq/")
    with pytest.raises(EngineFailed, match="ACCESS_REFUSED"):
        project.exec("producer", *guest)


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_no_secret_is_in_an_environment_or_a_log(project: Project) -> None:
    """`docker inspect` shows the environment and the command of a container to everybody who may ask the engine."""
    urls = [project.exec("producer", "cat", f"/run/secrets/sdqueue_{name}_url") for name in ("broker", "store")]
    secrets = [url.split(":")[2].split("@")[0] for url in urls] + [key_of(project)]
    shown = json.dumps([project.inspect(container) for container in project.containers(stopped=True)])
    logged = project.logs()
    assert len(shown) > 1000
    assert not [secret for secret in secrets if secret in shown or secret in logged]


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_the_servers_reach_nothing(project: Project) -> None:
    """Their networks have no way out; one of the consumers' has, to the models."""

    def ways_out(service: str) -> list[str]:
        (container,) = project.containers(service)
        networks = project.inspect(container)["NetworkSettings"]["Networks"]
        return [name for name in networks if not project.inspect(name)["Internal"]]

    assert ways_out("redis") == ways_out("rabbitmq") == []
    assert len(ways_out("consumer")) == len(ways_out("producer")) == 1


def owned_by(project: Project, count: int, *, within_s: float = 60.0) -> None:
    """Wait until so many consumers have queues; one that is healthy may not have got its share yet."""
    deadline = time.monotonic() + within_s
    while True:
        pool = json.loads(project.exec("producer", "sdqueue", "topology", "owners", "--json"))
        if len({queue["owner"] for queue in pool["queues"]}) == count:
            return
        assert time.monotonic() < deadline, pool
        time.sleep(0.5)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_nothing_is_lost_when_it_is_scaled_broken_and_restarted_under_load(
    project: Project, sdqueue_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.load("--sessions=200", "--rate=40", "--seconds=900") as load:  # longer than all that is done to it
        load.answers(60)
        project.up("--no-recreate", "--scale=consumer=4")
        assert len(project.containers("consumer")) == 4
        load.answers(60)
        owned_by(project, 4)

        project.crash(project.containers("consumer")[1], sdqueue_image)
        load.answers(60)
        project.healthy("consumer", 4)  # by its restart policy

        project.compose("restart", "--no-deps", "consumer", timeout_s=90)
        load.answers(60)
        project.compose("restart", "--no-deps", "rabbitmq", timeout_s=90)
        load.answers(60)
        project.compose("restart", "--no-deps", "redis", timeout_s=90)
        load.answers(60)
        project.up("--no-recreate", "--scale=consumer=1")
        assert len(project.containers("consumer")) == 1
        load.answers(60)

        told = load.finish()
    verdict = judge(told)
    with capsys.disabled():
        print(
            f"\ncompose: {verdict.turns} turns of {verdict.sessions} sessions in {told['seconds']} s, all answered "
            f"{told['behind_s']} s after the last; lost {verdict.lost}, doubled {verdict.doubled}, out of order "
            f"{verdict.disordered}, failed {verdict.failed}; replies repeated under their ids {verdict.repeats}"
        )
    assert verdict.turns > 400
    assert verdict.clean, verdict.details[:10]


OWN = """
services:
  producer:
    environment:
      SDQUEUE_SECRETS_DIR: /run/own:/run/secrets
    secrets:
      - source: openai_keys
        target: /run/own/sdqueue_openai_keys
secrets:
  openai_keys:
    file: ./openai_keys.json
"""
"""What README.md says of secrets of one's own."""


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_sessions_outlive_the_containers_and_their_passwords(project: Project, tmp_path: Path) -> None:
    """Down and up again, with new passwords of the servers, and a key of one's own at the front door."""
    key = key_of(project)
    project.compose("down", timeout_s=180)
    assert project.left().keys() == {"volumes"}
    project.compose("run", "--rm", "--no-deps", "secrets", "--new", timeout_s=60)
    (tmp_path / "openai_keys.json").write_text('{"compose": "a-key-that-somebody-chose"}')
    (tmp_path / "openai_keys.json").chmod(0o444)
    (tmp_path / "own.yaml").write_text(OWN.replace("./", f"{tmp_path}/"))
    project.add(tmp_path / "own.yaml")
    project.up()
    assert said(project, "ada", "still-there?") == ["hello", "again", "still-there?"]
    for old in (key, key_of(project)):
        with pytest.raises(Refused, match="401"):
            asked(project, "bob", "hello", old)
    assert asked(project, "bob", "still-there?", "a-key-that-somebody-chose") == ["hello", "again", "still-there?"]


@pytest.mark.engine
@pytest.mark.timeout(180)
def test_a_stopped_consumer_drains_and_ends_in_order(project: Project) -> None:
    (consumer,) = project.containers("consumer")
    project.compose("stop", "consumer", timeout_s=90)
    state = project.inspect(consumer)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert project.exec("producer", "sdqueue", "send", "ada", "while-nobody-is-there")
    project.up()
    assert said(project, "ada", "anybody?")[-2:] == ["while-nobody-is-there", "anybody?"]


def test_the_page_shows_what_is_tried() -> None:
    assert textwrap.indent(OWN, "    ").strip() in (FOLDER / "README.md").read_text()
