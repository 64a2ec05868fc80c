"""The image: what is in it, what it needs, and turns through a consumer and a producer that run from it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx
import pytest

from sdqueue import Client, TurnFailed
from tests.deploy.engine import DOCKERFILE, ROOT, Container, Engine, EngineFailed
from tests.deploy.servers import Servers, servers
from tests.deploy.test_image_lock import ENVIRONMENTS, LOCK, entries

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]  # a build takes a minute, two for the first

MEGABYTE: Final = 1_000_000
BOT: Final = Path(__file__).with_name("bot.py")
OFTEN: Final = ("--health-interval=1s", "--health-start-period=1s")
LOCKED_DOWN: Final = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
AGENT: Final = (f"--volume={BOT}:/app/bot.py:ro", "--env=SDQUEUE_AGENT=bot:answer")


@pytest.fixture(scope="module")
def pool(engine: Engine) -> Iterator[Servers]:
    """RabbitMQ and Redis in a network of their own."""
    with servers(engine) as running:
        yield running


def shell(engine: Engine, image: str, script: str, *options: str) -> str:
    """Run a script in a container of the image instead of sdqueue; returns what it prints."""
    return engine.run("run", "--rm", *options, "--entrypoint=sh", image, "-ec", script)


# What is in it


def test_it_says_what_it_is_and_how_to_ask_for_its_health(engine: Engine, sdqueue_image: str) -> None:
    (found,) = json.loads(engine.run("image", "inspect", sdqueue_image))
    config = found["Config"]
    assert config["Entrypoint"] == ["sdqueue"]
    assert config["User"] == "10001:10001"
    assert config["WorkingDir"] == "/app"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "sdqueue", "health"]
    assert config["ExposedPorts"] == {"8080/tcp": {}, "9464/tcp": {}}
    assert config["Labels"]["org.opencontainers.image.version"] == version("sdqueue")
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_has_exactly_what_the_lock_says(engine: Engine, sdqueue_image: str) -> None:
    ask = "from importlib.metadata import distributions as d; print(*sorted(f'{x.name}=={x.version}' for x in d()))"
    # Isolated: Debian's Python, where that is the base, has packages of its own outside of the environment.
    has = shell(engine, sdqueue_image, f'python -I -c "{ask}"').split()
    python = shell(engine, sdqueue_image, "python -c 'import sys; print(*sys.version_info[:2], sep=\".\")'")
    (environment,) = (e for e in ENVIRONMENTS if e["python_version"] == python and e["platform_machine"] == "x86_64")
    pins = [pin for pin, _ in entries(LOCK) if pin.marker is None or pin.marker.evaluate(environment)]
    wanted = {f"{pin.name}{pin.specifier}" for pin in pins} | {f"sdqueue=={version('sdqueue')}"}
    assert {name.lower().replace("_", "-") for name in has} == wanted


def test_it_adds_less_than_120_megabytes_to_its_base_and_nothing_of_the_build(
    engine: Engine, sdqueue_image: str
) -> None:
    layers = engine.run("history", "--human=false", "--no-trunc", "--format={{.Size}} {{.CreatedBy}}", sdqueue_image)
    copied = [line for line in layers.splitlines() if " COPY /" in line]
    assert len(copied) == 2
    assert sum(int(line.split()[0]) for line in copied) < 120 * MEGABYTE
    assert int(copied[0].split()[0]) < 10 * MEGABYTE  # sdqueue itself: what a new release of it transfers
    left = (
        "ls -d /tools /lock /source /wheel /dependencies /image /root/.cache/pip /run/secrets/* /opt/sdqueue/bin/pip*"
    )
    assert shell(engine, sdqueue_image, f"{left} 2>/dev/null || true") == ""


def test_nothing_in_it_can_be_changed_but_its_data_and_temporary_files(engine: Engine, sdqueue_image: str) -> None:
    """Neither as its own user nor as another one that OpenShift may choose."""
    script = (
        "id -u; for f in / /app /opt/sdqueue /opt/sdqueue/bin/sdqueue /opt/sdqueue/lib/python3*/site-packages/sdqueue"
        " /etc /etc/passwd /var/lib/sdqueue /tmp; do test -w $f && echo $f; done; true"
    )
    assert shell(engine, sdqueue_image, script).split() == ["10001", "/var/lib/sdqueue", "/tmp"]
    other = shell(engine, sdqueue_image, script, "--user=1000650000:0").split()
    assert other == ["1000650000", "/var/lib/sdqueue", "/tmp"]


def test_its_code_is_compiled(engine: Engine, sdqueue_image: str) -> None:
    """Or each start of a container compiles it again, since it cannot be kept."""
    script = (
        "import importlib.util, pathlib, sysconfig; folder = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "for name in ('sdqueue', 'sdqueue_producers', 'pydantic', 'openai'):\n"
        " for file in (folder / name).rglob('*.py'):\n"
        "  cached = pathlib.Path(importlib.util.cache_from_source(file))\n"
        "  if not cached.exists() or cached.read_bytes()[4] != 1: print(file)"  # 1: by an unchecked hash (PEP 552)
    )
    assert shell(engine, sdqueue_image, f'python -c "{script}"') == ""
    loaded = "import sdqueue.settings as m; print(m.__cached__, m.Settings.load.__code__.co_filename)"
    cached, file = shell(engine, sdqueue_image, f'python -c "{loaded}"').split()
    assert cached.startswith("/opt/sdqueue/lib/")
    assert file.startswith("/opt/sdqueue/lib/")  # tracebacks tell where it is, not where it was compiled


# What the build needs


def test_only_what_is_copied_goes_to_the_engine(engine: Engine, sdqueue_image: str, tmp_path: Path) -> None:
    """No .git, no .env, no tests, no environment: the ignore file lists what may go, not what may not."""
    shutil.copy(DOCKERFILE.with_name("Dockerfile.dockerignore"), tmp_path / "Dockerfile.dockerignore")
    (tmp_path / "Dockerfile").write_text(f"FROM {sdqueue_image}\nCOPY . /tmp/context\n")
    tag = f"{sdqueue_image}-context"
    engine.build(tag, tmp_path / "Dockerfile", ROOT)
    try:
        files = shell(engine, tag, "cd /tmp/context; find . -type f -printf '%P\\n'").splitlines()
        size = int(shell(engine, tag, "du -sb /tmp/context").split()[0])
    finally:
        engine.attempt("rmi", tag)
    top = {name.partition("/")[0] for name in files}
    assert top == {"pyproject.toml", "README.md", "LICENSE", "sdqueue", "producers", "deploy"}
    assert {name for name in files if name.startswith("deploy")} == {
        "deploy/image/build.txt",
        "deploy/image/requirements.txt",
    }
    assert not [name for name in files if name.endswith(".pyc")]
    assert size < 5 * MEGABYTE


def test_two_builds_have_the_same_layers(engine: Engine, sdqueue_image: str) -> None:
    """Bit for bit, with the times in them. The name of the image differs: Docker before 23 writes the time into it.

    Both begin from nothing: where some layers come from another build, Docker may put the same files into the others
    in another order (``a-1/b`` before or behind ``a/b``).
    """
    layers = []
    for tag in (f"{sdqueue_image}-first", f"{sdqueue_image}-again"):
        engine.build(tag, no_cache=True)
        try:
            layers.append(json.loads(engine.run("image", "inspect", tag))[0]["RootFS"]["Layers"])
        finally:
            engine.attempt("rmi", tag)
    assert layers[0] == layers[1]


def test_an_extra_that_is_not_in_the_lock_can_be_added(engine: Engine, sdqueue_image: str) -> None:
    tag = f"{sdqueue_image}-extras"
    engine.build(tag, arguments={"EXTRAS": "langchain"})
    try:
        assert shell(engine, tag, "python -c 'import langchain_core, sdqueue.cli; print(langchain_core.__name__)'")
        with pytest.raises(EngineFailed, match="No module named 'langchain_core'"):
            shell(engine, sdqueue_image, "python -c 'import langchain_core'")
        assert "Usage" in engine.run("run", "--rm", *LOCKED_DOWN, tag, "--help")
    finally:
        engine.attempt("rmi", tag)


# On its own


def test_it_runs_with_no_right_at_all(engine: Engine, sdqueue_image: str) -> None:
    for user in ("10001:10001", "1000650000:0"):
        said = engine.run("run", "--rm", *LOCKED_DOWN, f"--user={user}", sdqueue_image, "--help")
        assert "consumer" in said
        assert "producer" in said


@pytest.mark.parametrize("user", ["10001:10001", "1000650000:0"])
def test_the_doctor_finds_sqlite_well_on_a_new_volume(engine: Engine, sdqueue_image: str, user: str) -> None:
    """Also under a user that OpenShift chooses; and without a volume it says what is wrong."""
    with engine.volume() as volume:
        mounted = f"--volume={volume}:/var/lib/sdqueue"
        engine.run("run", "--rm", *LOCKED_DOWN, f"--user={user}", mounted, sdqueue_image, "topology", "apply")
        said = engine.run("run", "--rm", *LOCKED_DOWN, f"--user={user}", mounted, sdqueue_image, "doctor")
    assert "FAIL" not in said
    without = engine.attempt("run", "--rm", *LOCKED_DOWN, f"--user={user}", sdqueue_image, "doctor")
    assert without.returncode == 1
    assert "/app/.sdqueue/broker.db: unable to open database file" in without.stdout


def test_a_consumer_without_its_servers_says_why_it_is_not_ready_and_stops_when_told(
    engine: Engine, sdqueue_image: str
) -> None:
    addresses = ("--env=SDQUEUE_BROKER_URL=amqp://127.0.0.1:1", "--env=SDQUEUE_STORE_URL=redis://127.0.0.1:1")
    with engine.container(sdqueue_image, "consumer", options=[*LOCKED_DOWN, *addresses, *OFTEN]) as consumer:
        consumer.printed("cannot connect to amqp:")
        consumer.unhealthy()
        with pytest.raises(EngineFailed, match=r"RabbitMQ at amqp://127\.0\.0\.1:1 was not reached"):
            consumer.exec("sdqueue", "health")
        consumer.exec("sdqueue", "health", "--live")
        assert consumer.stop(timeout_s=20) == 0


def test_consumers_and_senders_share_a_volume_with_sqlite(engine: Engine, sdqueue_image: str) -> None:
    with engine.volume() as volume:
        options = [*LOCKED_DOWN, f"--volume={volume}:/var/lib/sdqueue"]
        with (
            engine.container(sdqueue_image, "consumer", options=[*options, *OFTEN, *AGENT]) as consumer,
            engine.container(sdqueue_image, "consumer", options=[*options, *AGENT]) as other,
        ):
            consumer.healthy()
            said = [engine.run("run", "--rm", *options, sdqueue_image, "send", "--wait", "s", text) for text in "ab"]
            assert said == ["you said a", "you said b"]
            assert consumer.stop(timeout_s=40) == 0
            assert engine.run("run", "--rm", *options, sdqueue_image, "send", "--wait", "s", "c") == "you said c"
            assert other.stop(timeout_s=40) == 0


# With servers


def consumer_options(pool: Servers) -> list[str]:
    return [f"--network={pool.network}", *LOCKED_DOWN, *OFTEN, *pool.environment, *AGENT]


async def test_a_turn_comes_back_and_a_stop_lets_the_running_one_end(
    engine: Engine, sdqueue_image: str, pool: Servers
) -> None:
    with engine.container(sdqueue_image, "consumer", options=consumer_options(pool)) as consumer:
        await asyncio.to_thread(consumer.healthy)
        async with Client.from_settings(broker_url=pool.broker_url) as client:
            assert (await client.ask("image-1", "hello")).text == "you said hello"
            slow = asyncio.create_task(client.ask("image-2", "slow"))
            await asyncio.to_thread(consumer.printed, "begun")
            code = await asyncio.to_thread(consumer.stop, 40)
            assert slow.done()
            assert (await slow).text == "you said slow"
            assert code == 0
        assert "stopped" in consumer.logs()


async def test_an_agent_may_be_copied_into_an_image_of_its_own(
    engine: Engine, sdqueue_image: str, pool: Servers, tmp_path: Path
) -> None:
    """With a package of its own, as the head of the Dockerfile says."""
    shutil.copy(BOT, tmp_path / "mybot.py")
    with (tmp_path / "mybot.py").open("a") as more:
        more.write("\nimport tomli_w  # noqa: F401, E402\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {sdqueue_image}\n"
        "USER root\n"
        "RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \\\n"
        "    python -m ensurepip && python -m pip install --no-cache-dir tomli-w\n"
        "USER 10001:10001\n"
        "COPY mybot.py /app/\n"
        "ENV SDQUEUE_AGENT=mybot:answer\n"
    )
    tag = f"{sdqueue_image}-derived"
    await asyncio.to_thread(engine.build, tag, tmp_path / "Dockerfile", tmp_path)
    try:
        options = [f"--network={pool.network}", *LOCKED_DOWN, *OFTEN, *pool.environment]
        with engine.container(tag, "consumer", options=options) as consumer:
            await asyncio.to_thread(consumer.healthy)
            async with Client.from_settings(broker_url=pool.broker_url) as client:
                assert (await client.ask("image-3", "hello")).text == "you said hello"
    finally:
        engine.attempt("rmi", tag)


async def test_a_producer_hands_a_request_to_a_consumer(engine: Engine, sdqueue_image: str, pool: Servers) -> None:
    key = "a-long-random-secret"
    options = [
        f"--network={pool.network}", *LOCKED_DOWN, *OFTEN, *pool.environment, "--publish=127.0.0.1::8080",
        "--env=SDQUEUE_CHANNELS=openai", f'--env=SDQUEUE_OPENAI_KEYS={{"alice": "{key}"}}',
    ]  # fmt: skip
    with (
        engine.container(sdqueue_image, "consumer", options=consumer_options(pool)),
        engine.container(sdqueue_image, "producer", options=options) as producer,
    ):
        await asyncio.to_thread(producer.healthy)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{producer.port(8080)}", timeout=60) as http:
            body = {"model": "sdqueue", "input": "hello"}
            answer = await http.post("/v1/responses", json=body, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200, answer.text
            assert "you said hello" in answer.text
        assert await asyncio.to_thread(producer.stop, 40) == 0


def processes(container: Container) -> list[tuple[str, str]]:
    """Names and states of the processes of a container; Z is one that has ended, and that nobody has asked about."""
    script = (
        "import pathlib\nfor p in pathlib.Path('/proc').glob('[0-9]*/stat'):\n"
        " try: s = p.read_text()\n except OSError: continue\n"
        " print(s[s.index('(') + 1:s.rindex(')')].replace(' ', '_'), s.rpartition(')')[2].split()[0])"
    )
    return [(name, state) for name, state in map(str.split, container.exec("python", "-c", script).splitlines())]


def zombies(container: Container) -> list[str]:
    return [name for name, state in processes(container) if state == "Z"]


async def test_a_turn_that_kills_its_process_is_dead_also_where_that_is_the_first_of_a_container(
    engine: Engine, sdqueue_image: str, pool: Servers
) -> None:
    """The engine starts the consumer again; the third time the turn runs in a child, which is reaped."""
    options = [*consumer_options(pool), "--restart=always"]
    with engine.container(sdqueue_image, "consumer", options=options) as consumer:
        await asyncio.to_thread(consumer.printed, " ready: ")
        async with Client.from_settings(broker_url=pool.broker_url) as client:
            with pytest.raises(TurnFailed):
                await client.ask("image-4", "die", timeout=120)
            assert (await client.ask("image-5", "hello")).text == "you said hello"
        assert consumer.inspect()["RestartCount"] == 2
        assert zombies(consumer) == []


async def test_what_an_agent_leaves_behind_is_reaped_with_init(
    engine: Engine, sdqueue_image: str, pool: Servers
) -> None:
    """Without, it stays as a zombie, since sdqueue waits for children of its own only: so the page says --init."""
    left = {}
    for option in ("--init", "--env=NO_INIT=1"):
        with engine.container(sdqueue_image, "consumer", options=[*consumer_options(pool), option]) as consumer:
            await asyncio.to_thread(consumer.healthy)
            async with Client.from_settings(broker_url=pool.broker_url) as client:
                await client.ask("image-6", "leave a child")
            async with asyncio.timeout(30):  # it ends by itself after half a second, and is a shell before it sleeps
                while any(
                    name in ("sh", "sleep") and (state != "Z" or option == "--init")
                    for name, state in await asyncio.to_thread(processes, consumer)
                ):
                    await asyncio.sleep(0.2)
            left[option] = len(await asyncio.to_thread(zombies, consumer))
            assert await asyncio.to_thread(consumer.stop, 40) == 0
    assert left == {"--init": 0, "--env=NO_INIT=1": 1}
