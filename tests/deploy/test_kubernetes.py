"""deploy/kubernetes: what its overlays come to is valid, belongs together, and fits the code; and each check can fail."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import FOLDER, Installation, Manifest, render
from tests.deploy.review import REVIEWS, mebibytes

OVERLAYS = ("small", "large")


@cache
def _rendered(overlay: str) -> list[Manifest]:
    return render(FOLDER / "overlays" / overlay)


def installation(overlay: str) -> Installation:
    """One to look at, or to break."""
    return Installation(copy.deepcopy(_rendered(overlay)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_its_parts_belong_together(overlay: str) -> None:
    it = installation(overlay)
    assert [f"{name}: {problem}" for name, review in REVIEWS.items() for problem in review(it)] == []


# Each mutant is a mistake that somebody makes one day.

Mutant = Callable[[Installation], object]


def _pod(it: Installation, name: str = "sdqueue-consumer", kind: str = "Deployment") -> Manifest:
    return it.pod(kind, name).spec


def _container(it: Installation, name: str = "sdqueue-consumer", kind: str = "Deployment") -> Manifest:
    container: Manifest = _pod(it, name, kind)["containers"][0]
    return container


def _config(it: Installation, name: str) -> dict[str, str]:
    found = next(m for m in it.all("ConfigMap") if re.fullmatch(rf"{name}-[a-z0-9]{{10}}", m["metadata"]["name"]))
    data: dict[str, str] = found["data"]
    return data


def _policy(it: Installation, name: str) -> Manifest:
    spec: Manifest = it.get("NetworkPolicy", name)["spec"]
    return spec


def _trigger(it: Installation) -> dict[str, str]:
    metadata: dict[str, str] = it.get("ScaledObject", "sdqueue-consumer")["spec"]["triggers"][0]["metadata"]
    return metadata


def _scaled(it: Installation) -> Manifest:
    spec: Manifest = it.get("ScaledObject", "sdqueue-consumer")["spec"]
    return spec


COMPONENT = "app.kubernetes.io/component"

MUTANTS: dict[str, tuple[str, str, Mutant]] = {
    "a field that there is not": ("small", "schemas", lambda it: _pod(it).update(nodeSelectors={})),
    "a number for a text": ("small", "schemas", lambda it: _config(it, "sdqueue").update(SDQUEUE_PARTITIONS=64)),
    "a misspelt field of KEDA's": ("large", "schemas", lambda it: _scaled(it).update(minReplicas=2)),
    "a number for a text of KEDA's": ("large", "schemas", lambda it: _trigger(it).update(value=300)),
    "a trigger of KEDA's without its protocol": ("large", "schemas", lambda it: _trigger(it).pop("protocol")),
    "a label lost": (
        "small", "selectors",
        lambda it: it.get("Deployment", "sdqueue-consumer")["spec"]["template"]["metadata"]["labels"].pop(COMPONENT),
    ),
    "a Service of nobody": (
        "small", "selectors", lambda it: it.get("Service", "sdqueue-producer")["spec"]["selector"].update({COMPONENT: "x"}),
    ),
    "a port of a Service misnamed": (
        "small", "selectors", lambda it: it.get("Service", "sdqueue-redis")["spec"]["ports"][0].update(targetPort="tcp"),
    ),
    "a budget of nobody": (
        "large", "selectors",
        lambda it: it.get("PodDisruptionBudget", "sdqueue-egress")["spec"]["selector"]["matchLabels"].update(
            {COMPONENT: "producer"}
        ),
    ),
    "a way in to nowhere": (
        "large", "selectors",
        lambda it: it.get("Ingress", "sdqueue")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(
            name="sdqueue"
        ),
    ),
    "nothing denied": ("small", "networks", lambda it: it.manifests.remove(it.get("NetworkPolicy", "sdqueue-default-deny"))),
    "everybody let in": ("small", "networks", lambda it: _policy(it, "sdqueue-http")["ingress"][0].pop("from")),
    "out to every port": ("small", "networks", lambda it: _policy(it, "sdqueue-https")["egress"][0].pop("ports")),
    "out to Redis, by another port": (
        "small", "networks", lambda it: _policy(it, "sdqueue-redis")["egress"][0]["ports"][0].update(port=6380),
    ),
    "a policy for nobody": (
        "small", "networks", lambda it: _policy(it, "sdqueue-redis-ingress")["podSelector"].update(matchLabels={"a": "b"}),
    ),
    "nobody may read the metrics": (
        "large", "networks", lambda it: it.manifests.remove(it.get("NetworkPolicy", "sdqueue-metrics")),
    ),
    "no liveness": ("small", "containers", lambda it: _container(it).pop("livenessProbe")),
    "liveness by the state of the broker": (
        "small", "containers", lambda it: _container(it)["livenessProbe"]["httpGet"].update(path="/readyz"),
    ),
    "a probe of another port": (
        "small", "containers",
        lambda it: _container(it, "sdqueue-rabbitmq", "StatefulSet")["startupProbe"]["tcpSocket"].update(port="amqp"),
    ),
    "no memory asked for": ("large", "containers", lambda it: _container(it)["resources"]["requests"].pop("memory")),
    "a throttled loop": ("large", "containers", lambda it: _container(it)["resources"]["limits"].update(cpu="1")),
    "a writable root": (
        "large", "containers",
        lambda it: _container(it, "sdqueue-egress")["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "as root": (
        "small", "containers", lambda it: _pod(it, "sdqueue-redis", "StatefulSet")["securityContext"].pop("runAsNonRoot"),
    ),
    "a token": ("small", "containers", lambda it: _pod(it, "sdqueue-topology", "Job").pop("automountServiceAccountToken")),
    "Services in the environment": ("small", "containers", lambda it: _pod(it, "sdqueue-producer").pop("enableServiceLinks")),
    "a ServiceAccount that there is not": ("small", "containers", lambda it: _pod(it).update(serviceAccountName="default")),
    "a volume that nobody mounts": (
        "small", "containers", lambda it: _container(it)["volumeMounts"].pop(0),
    ),
    "a setting misspelt": (
        "small", "settings", lambda it: _config(it, "sdqueue-consumer").update(SDQUEUE_CONCURENCY="512"),
    ),
    "a setting of a channel misspelt": (
        "small", "settings", lambda it: _config(it, "sdqueue").update(SDQUEUE_WEBCHAT_ANONYMUS="true"),
    ),
    "a value that will not do": ("small", "settings", lambda it: _config(it, "sdqueue").update(SDQUEUE_PARTITIONS="many")),
    "a channel that there is not": ("small", "settings", lambda it: _config(it, "sdqueue").update(SDQUEUE_CHANNELS="irc")),
    "metrics elsewhere": ("small", "settings", lambda it: _config(it, "sdqueue").update(SDQUEUE_METRICS_PORT="9465")),
    "a producer for itself": (
        "small", "settings", lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_PRODUCER_HOST="127.0.0.1"),
    ),
    "another public address": (
        "large", "settings",
        lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_PUBLIC_URL="https://chat.example.com"),
    ),
    "secrets elsewhere": ("small", "settings", lambda it: _container(it)["env"][0].update(value="/run/secrets")),
    "killed too early": ("small", "stopping", lambda it: _pod(it).update(terminationGracePeriodSeconds=120)),
    "a longer grace that nobody waits for": (
        "large", "stopping", lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_GRACE_S="60"),
    ),
    "the default grace of Kubernetes": (
        "small", "stopping", lambda it: _pod(it, "sdqueue-producer").pop("terminationGracePeriodSeconds"),
    ),
    "longer turns than grace": (
        "small", "stopping", lambda it: _config(it, "sdqueue-consumer").update(SDQUEUE_TURN_TIMEOUT_S="300"),
    ),
    "requests cut off": ("small", "stopping", lambda it: _container(it, "sdqueue-producer").pop("lifecycle")),
    "two that decide how many": (
        "large", "numbers", lambda it: it.get("Deployment", "sdqueue-consumer")["spec"].update(replicas=3),
    ),
    "alone": ("small", "numbers", lambda it: it.get("Deployment", "sdqueue-consumer")["spec"].update(replicas=1)),
    "nobody scaled": ("large", "numbers", lambda it: _scaled(it)["scaleTargetRef"].update(name="consumer")),
    "two releases": ("large", "images", lambda it: _container(it, "sdqueue-egress").update(image="sdqueue:0.0.9")),
    "the latest": ("small", "images", lambda it: _container(it, "sdqueue-redis", "StatefulSet").update(image="redis")),
    "another namespace": ("large", "backlog", lambda it: _config(it, "sdqueue").update(SDQUEUE_NAMESPACE="bot")),
    "one partition": ("large", "backlog", lambda it: _trigger(it).update(queueName=r"^sdqueue\.turns\.0000$")),
    "dead letters counted": ("large", "backlog", lambda it: _trigger(it).update(queueName=r"^sdqueue\.")),
    "no end of the pattern": ("large", "backlog", lambda it: _trigger(it).update(queueName=r"sdqueue\.(turns|unrouted)")),
    "without what is taken ahead": ("large", "backlog", lambda it: _trigger(it).update(excludeUnacknowledged="true")),
    "the mean": ("large", "backlog", lambda it: _trigger(it).update(operation="avg")),
    "a page too short": ("large", "backlog", lambda it: _trigger(it).update(pageSize="64")),
    "a page too long": ("large", "backlog", lambda it: _trigger(it).update(pageSize="501")),
    "more than partitions": ("large", "backlog", lambda it: _scaled(it).update(maxReplicaCount=65)),
    "scaled too late": ("large", "backlog", lambda it: _trigger(it).update(value="600")),
    "no key to RabbitMQ": (
        "large", "backlog", lambda it: it.manifests.remove(it.get("TriggerAuthentication", "sdqueue-monitor")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MUTANTS)
def test_a_mistake_is_seen(mistake: str) -> None:
    overlay, review, mutate = MUTANTS[mistake]
    it = installation(overlay)
    mutate(it)
    assert list(REVIEWS[review](it))


# What a single overlay's parts have in common with other files


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_commands_are_those_of_sdqueue(overlay: str) -> None:
    """With --help at the end, a command is looked at and not run; an option that there is not is an error all the same."""
    lines = {tuple(c["args"]) for pod in installation(overlay).pods if pod.ours for c in pod.containers}
    assert len(lines) == {"small": 3, "large": 4}[overlay]
    for arguments in lines:
        asked = subprocess.run(
            [sys.executable, "-m", "sdqueue.cli", *arguments, "--help"], capture_output=True, text=True
        )
        assert asked.returncode == 0, (arguments, asked.stderr)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_but_the_operator_declares_anything(overlay: str) -> None:
    for pod in installation(overlay).pods:
        if pod.ours and pod.serves:
            assert "--no-apply" in pod.containers[0]["args"]
        secrets = {v["secret"]["secretName"] for v in pod.spec["volumes"] if "secret" in v}
        role = "operator" if not pod.serves else pod.spec.get("serviceAccountName", "").removeprefix("sdqueue-")
        assert secrets == ({f"sdqueue-{role}"} if pod.ours else {pod.owner["metadata"]["name"]})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_goes_into_any_namespace_and_has_no_secret_in_it(overlay: str) -> None:
    it = installation(overlay)
    assert not [m for m in it.manifests if "namespace" in m["metadata"]]
    assert not it.all("Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_is_of_this_release(overlay: str) -> None:
    release = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    found = {c["image"].rpartition(":")[2] for pod in installation(overlay).pods if pod.ours for c in pod.containers}
    assert found == {release}


def test_the_egress_is_a_producer_but_for_what_it_has_no_need_of() -> None:
    it = installation("large")
    egress, producer = (copy.deepcopy(it.pod("Deployment", f"sdqueue-{name}").spec) for name in ("egress", "producer"))
    for spec in (egress, producer):
        spec.pop("terminationGracePeriodSeconds")
        spec.pop("topologySpreadConstraints")
        for name in ("args", "resources", "lifecycle", "ports"):
            spec["containers"][0].pop(name, None)
    assert egress == producer
    args = {pod.owner["metadata"]["name"]: pod.containers[0]["args"][-2:] for pod in it.pods if pod.serves}
    assert (args["sdqueue-producer"], args["sdqueue-egress"]) == (["--only", "ingress"], ["--only", "egress"])


def test_the_small_one_is_smaller() -> None:
    """In processes, and in what each asks for, one by one."""
    small, large = installation("small"), installation("large")
    assert _most(small, "sdqueue-consumer") < _least(large, "sdqueue-consumer") + _most(large, "sdqueue-consumer")
    for name in ("sdqueue-consumer", "sdqueue-producer"):
        assert _most(small, name) <= _least(large, name) < _most(large, name)
        few, many = (_container(it, name)["resources"] for it in (small, large))
        assert _millicores(few["requests"]["cpu"]) < _millicores(many["requests"]["cpu"])
        for kind in ("requests", "limits"):
            assert mebibytes(few[kind]["memory"]) < mebibytes(many[kind]["memory"])


def _least(it: Installation, name: str) -> int:
    spec: dict[str, Any] = (it.scaler_of(name) or it.get("Deployment", name))["spec"]
    return int(spec.get("minReplicaCount") or spec.get("minReplicas") or spec["replicas"])


def _most(it: Installation, name: str) -> int:
    spec: dict[str, Any] = (it.scaler_of(name) or it.get("Deployment", name))["spec"]
    return int(spec.get("maxReplicaCount") or spec.get("maxReplicas") or spec["replicas"])


def _millicores(quantity: str) -> int:
    return int(quantity.removesuffix("m")) if quantity.endswith("m") else 1000 * int(quantity)


def test_what_the_page_says_of_resources_is_what_the_manifests_ask_for() -> None:
    """The figures stand in two places, and are the same."""
    page = (FOLDER / "README.md").read_text("utf-8")
    for overlay in OVERLAYS:
        for pod in installation(overlay).pods:
            if pod.ours and pod.serves:
                asked, limit = (pod.containers[0]["resources"][kind] for kind in ("requests", "limits"))
                name = pod.owner["metadata"]["name"].removeprefix("sdqueue-")
                row = f"| {overlay} | {name} | {asked['cpu']} | {asked['memory']} | {limit['memory']} |"
                assert row in page, row


def _files() -> Iterator[Path]:
    yield from (path for path in FOLDER.rglob("*.yaml") if path.is_file())


def test_every_file_is_used() -> None:
    """A file that no kustomization names would be forgotten."""
    named = "\n".join(path.read_text("utf-8") for path in _files() if path.name == "kustomization.yaml")
    for path in (*_files(), *FOLDER.rglob("*.conf"), *FOLDER.rglob("enabled_plugins")):
        if path.name != "kustomization.yaml":
            assert re.search(rf"^ +- {re.escape(path.name)}$", named, re.MULTILINE), path
