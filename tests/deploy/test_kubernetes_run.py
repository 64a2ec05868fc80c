"""The small installation, really run: its pods are containers here, with the Secrets of the script."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final
from urllib.parse import quote_plus

import pytest
import yaml

from tests.conftest import refuse
from tests.deploy.engine import Container, Engine, EngineFailed
from tests.deploy.kubelet import Kubelet, decoded
from tests.deploy.manifests import FOLDER, Installation, Pod, render
from tests.servers.process import Unavailable

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

NAMESPACE: Final = "chat"

SERVERS: Final = {
    "rabbitmq:4.3-management": ("SDQUEUE_TEST_RABBITMQ_IMAGE", "rabbitmq:4-management"),
    "redis:8": ("SDQUEUE_TEST_REDIS_IMAGE", "redis:8"),
}
"""For the images of the manifests, the variable that names the one to take, and what is taken without it."""

ASK: Final = """
import json, os, urllib.request
(key,) = json.load(open(os.environ["SDQUEUE_SECRETS_DIR"] + "/sdqueue_openai_keys")).values()
body = {"model": "sdqueue", "input": "hello"}
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8080/v1/responses", json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request, timeout=30))["output"][0]["content"][0]["text"])
"""

COUNT: Final = """
import base64, json, ssl, sys, urllib.request
about = json.load(sys.stdin)
url = about["host"].rpartition("/")[0] + "/api/queues/" + about["host"].rpartition("/")[2] + "?" + about["query"]
context = ssl.create_default_context(cadata=about["ca"])
who = base64.b64encode(f"{about['username']}:{about['password']}".encode()).decode()
request = urllib.request.Request(url, headers={"Authorization": f"Basic {who}"})
print(urllib.request.urlopen(request, context=context, timeout=30).read().decode())
"""


@pytest.fixture(scope="module")
def kubelet(engine: Engine, sdqueue_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    installation = Installation(render(FOLDER / "overlays" / "small"))
    images = {pod.containers[0]["image"]: sdqueue_image for pod in installation.pods if pod.ours}
    for image, (variable, usual) in SERVERS.items():
        images[image] = os.environ.get(variable) or usual
        from tests.servers.containers import ensure_image  # slow to import

        try:
            ensure_image(images[image])
        except Unavailable as why:
            refuse(f"no image of {image}: {why}", os.environ)
    script = [str(FOLDER / "make_secrets.sh"), NAMESPACE, str(tmp_path_factory.mktemp("kept") / "secrets")]
    made = subprocess.run(script, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    secrets = {secret["metadata"]["name"]: secret for secret in yaml.safe_load_all(made.stdout)}
    assert set(secrets) == {name for name, needed in installation.secrets() if needed} | {"sdqueue-monitor"}
    with engine.network() as network, ExitStack() as stack:
        kubelet = Kubelet(
            engine, installation, secrets, images,
            namespace=NAMESPACE, network=network, folder=tmp_path_factory.mktemp("k8s"),
        )  # fmt: skip
        stack.callback(kubelet.close)
        yield kubelet


def test_a_turn_comes_back_and_everything_ends_in_time(kubelet: Kubelet) -> None:
    """Servers with their rights, the Job, a consumer and a producer; asked by hand, by HTTP, by KEDA; restarted."""
    pods = {pod.owner["metadata"]["name"].removeprefix("sdqueue-"): pod for pod in kubelet.installation.pods}
    with kubelet.run(pods["rabbitmq"]), kubelet.run(pods["redis"]):
        with kubelet.run(pods["topology"]) as job:
            assert job.ended(150) == 0, job.logs()
        with kubelet.run(pods["consumer"]) as consumer, kubelet.run(pods["producer"]) as producer:
            for pod, container in ((pods["consumer"], consumer), (pods["producer"], producer)):
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    _eventually(container, lambda pod=pod, probe=probe, at=container: _asked(pod, probe, at))
                assert "no settings" not in container.logs()
            assert "hello" in producer.exec("sdqueue", "send", "ada", "hello", "--wait")
            assert "hello" in producer.exec("python", "-c", ASK)
            assert len(_queues(kubelet, producer)) == 65
            _gone(pods["consumer"], consumer)
            _gone(pods["producer"], producer)
    with (
        kubelet.run(pods["rabbitmq"]), kubelet.run(pods["redis"]),
        kubelet.run(pods["consumer"]) as consumer, kubelet.run(pods["producer"]) as producer,
    ):  # fmt: skip
        _eventually(producer, lambda: _asked(pods["producer"], "readinessProbe", producer))
        again = producer.exec("sdqueue", "send", "ada", "again", "--wait")
        assert again == "Message 2 of this session: again"  # the first one was before the restart


def _eventually(container: Container, met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            met()
        except EngineFailed as error:
            if time.monotonic() > deadline:
                raise EngineFailed(f"{error}\n{container.logs()[-3000:]}") from None
            time.sleep(0.5)
        else:
            return


def _asked(pod: Pod, probe: str, container: Container) -> str:
    """As the node asks, by path and port."""
    asked = pod.containers[0][probe]["httpGet"]
    return container.exec("sdqueue", "health", "--url", f"http://127.0.0.1:{pod.ports[asked['port']]}{asked['path']}")


def _queues(kubelet: Kubelet, inside: Container) -> list[object]:
    """What KEDA would count, by its Secret and the pattern of its component, from inside of the network."""
    trigger = Installation(render(FOLDER / "overlays" / "large")).get("ScaledObject", "sdqueue-consumer")
    pattern = trigger["spec"]["triggers"][0]["metadata"]["queueName"]
    about = {key: value.decode() for key, value in decoded(kubelet.secrets["sdqueue-monitor"]).items()}
    about["query"] = f"page=1&use_regex=true&pagination=false&name={quote_plus(pattern)}&page_size=500"
    words = json.dumps(about)
    answer = inside.exec("python", "-c", COUNT.replace("json.load(sys.stdin)", f"json.loads({words!r})"))
    items: list[object] = json.loads(answer)["items"]
    return items


def _gone(pod: Pod, container: Container) -> None:
    """It ends by itself, before it would be killed."""
    assert container.stop(pod.spec["terminationGracePeriodSeconds"]) == 0, container.logs()
