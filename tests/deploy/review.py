"""What a careful reader would say about manifests: each function yields what is wrong, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
from kubernetes_validate.utils import latest_version, schema_contents
from referencing import Registry, Resource
from sdqueue_producers.registry import settings_of

from sdqueue.brokers import Topology
from sdqueue.settings import Settings, installed_channels
from tests.deploy.manifests import Installation, Manifest, Pod, matches

VERSIONS: Final = ("1.29.0", "1.32.0", latest_version())
"""Of Kubernetes: the oldest that is promised, what is common, and the newest whose schemas are there."""

MARGIN_S: Final = 15
"""Seconds that a process may need past its grace, with servers that hang: tests/cli/test_*_stuck.py allow 12."""

KEDA: Final = json.loads((Path(__file__).parent / "keda.schema.json").read_text("utf-8"))

Review = Callable[[Installation], Iterator[str]]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def schemas(installation: Installation) -> Iterator[str]:
    """The API would take them as they are, without unknown fields."""
    for manifest in installation.manifests:
        if manifest["apiVersion"].startswith("keda.sh/"):
            for error in jsonschema.Draft202012Validator(KEDA).iter_errors(manifest):
                yield f"{name_of(manifest)}: {jsonschema.exceptions.best_match([error]).message}"
            continue
        for version in VERSIONS:
            for error in _validator(version, manifest["kind"], manifest["apiVersion"]).iter_errors(manifest):
                yield f"{name_of(manifest)}, Kubernetes {version}: {jsonschema.exceptions.best_match([error]).message}"


@cache
def _validator(version: str, kind: str, api: str) -> jsonschema.Draft202012Validator:
    """As kubernetes_validate makes it, but once: its definitions are megabytes, which it reads for each manifest."""
    group, _, number = api.rpartition("/")
    name = f"{kind.lower()}-{group.partition('.')[0]}{'-' if group else ''}{number}"
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    schema = schema_contents(f"{folder}/{name}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    found: Resource[Any] = Resource.from_contents(schema_contents(f"{folder}/_definitions.json", version))
    return found @ Registry()


def selectors(installation: Installation) -> Iterator[str]:
    """What selects pods finds those that it is meant for."""
    for pod in installation.pods:
        spec = pod.owner["spec"]
        if "selector" in spec and not matches(spec["selector"], pod.labels):
            yield f"{pod.name} does not select its own pods"
        if "selector" in spec and len(installation.selected(spec["selector"])) != 1:
            yield f"{pod.name} selects the pods of others"
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            if not matches(constraint["labelSelector"], pod.labels):
                yield f"{pod.name} is spread by the labels of other pods"
    for service in installation.all("Service"):
        found = installation.selected({"matchLabels": service["spec"]["selector"]})
        if len({pod.name for pod in found}) != 1:
            yield f"{name_of(service)} selects {len(found)} kinds of pods, not one"
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in pod.ports for pod in found):
                yield f"{name_of(service)}: its pods have no port {port['targetPort']}"
    for budget in installation.all("PodDisruptionBudget"):
        if len(installation.selected(budget["spec"]["selector"])) != 1:
            yield f"{name_of(budget)} does not select exactly one kind of pods"
    for pod in installation.pods:
        budgets = [b for b in installation.all("PodDisruptionBudget") if matches(b["spec"]["selector"], pod.labels)]
        if pod.owner["kind"] == "Deployment" and len(budgets) != 1:
            yield f"{pod.name} has {len(budgets)} PodDisruptionBudgets, not one"
    for ingress in installation.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = {
                    port["name"]
                    for service in installation.all("Service")
                    if service["metadata"]["name"] == backend["name"]
                    for port in service["spec"]["ports"]
                }
                if backend["port"]["name"] not in ports:
                    yield f"{name_of(ingress)} leads to no port of a Service"


def networks(installation: Installation) -> Iterator[str]:
    """All is denied, and what is opened exists; nobody but those named in a policy comes in."""
    policies = installation.all("NetworkPolicy")
    for policy in policies:
        found = installation.selected(policy["spec"]["podSelector"])
        if not found:
            yield f"{name_of(policy)} selects no pods"
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"{name_of(policy)} lets anybody in"
            for port in rule.get("ports", [{}]):
                for pod in found:
                    if port.get("port") not in pod.ports:
                        yield f"{name_of(policy)}: {pod.name} has no port {port.get('port')}"
            for peer in rule.get("from", []):
                if "namespaceSelector" not in peer and not installation.selected(peer.get("podSelector")):
                    yield f"{name_of(policy)} lets pods in that there are not"
        for rule in policy["spec"].get("egress", []):
            if 53 in [port["port"] for port in rule.get("ports", [])]:
                if {port["protocol"] for port in rule["ports"]} != {"UDP", "TCP"}:
                    yield f"{name_of(policy)}: long answers of DNS come by TCP"
                if {"ipBlock": {"cidr": "169.254.20.10/32"}} not in rule.get("to", []):
                    yield f"{name_of(policy)}: no names from the cache on a node, which is no pod of a namespace"
            if not rule.get("ports"):
                yield f"{name_of(policy)} lets pods out to every port"
            for peer in rule.get("to", []):
                if set(peer) == {"podSelector"}:
                    targets = installation.selected(peer["podSelector"])
                    if not targets:
                        yield f"{name_of(policy)} lets pods out to pods that there are not"
                    numbers = {number for pod in targets for number in pod.ports.values()}
                    if any(port["port"] not in numbers for port in rule["ports"]):
                        yield f"{name_of(policy)} lets pods out to a port that its targets have not"
    for pod in installation.pods:
        if not any(
            set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not policy["spec"].get("ingress")
            and not policy["spec"].get("egress")
            and matches(policy["spec"]["podSelector"], pod.labels)
            for policy in policies
        ):
            yield f"{pod.name} is not denied by default"
        for name in pod.ports:
            reached = [
                rule
                for policy in policies
                if matches(policy["spec"]["podSelector"], pod.labels)
                for rule in policy["spec"].get("ingress", [])
                if name in [port["port"] for port in rule["ports"]]
            ]
            if not reached:
                yield f"{pod.name}: nobody may reach its port {name}"


def containers(installation: Installation) -> Iterator[str]:
    """Every container is confined, watched, and says what it takes."""
    for pod in installation.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name} gets a token for the API server"
        if pod.spec.get("enableServiceLinks") is not False:
            # A Service sdqueue-producer would set SDQUEUE_PRODUCER_PORT to tcp://…, which is a setting.
            yield f"{pod.name} finds the Services of its namespace in its environment"
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name} may run as root, or without seccomp"
        if pod.ours and (security.get("runAsUser"), security.get("fsGroup")) != (10001, 10001):
            yield f"{pod.name} does not run as the user of the image"
        account = pod.spec.get("serviceAccountName")
        if pod.ours and account not in [m["metadata"]["name"] for m in installation.all("ServiceAccount")]:
            yield f"{pod.name}: there is no ServiceAccount {account}"
        for container in pod.containers:
            yield from _container(f"{pod.name}, {container['name']}", container, pod)


def _container(name: str, container: Manifest, pod: Pod) -> Iterator[str]:
    security = container.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if security != wanted:
        yield f"{name} is not confined: {security}"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield f"{name} does not say what it takes"
    elif "cpu" in resources["limits"]:
        yield f"{name} is throttled"
    elif mebibytes(resources["limits"]["memory"]) < mebibytes(resources["requests"]["memory"]):
        yield f"{name} may not take the memory that it asks for"
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    have = {v["name"] for v in (*pod.spec.get("volumes", []), *[c["metadata"] for c in _claims(pod)])}
    if mounted != have:
        yield f"{name} mounts {sorted(mounted)} of {sorted(have)}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if not pod.serves:
            continue
        asked = container.get(probe, {})
        port = asked.get("httpGet", asked.get("tcpSocket", {})).get("port")
        if port not in pod.ports:
            yield f"{name}: {probe} asks port {port}, which it has not"
        if pod.ours and asked.get("httpGet") != {
            "path": "/readyz" if probe == "readinessProbe" else "/healthz",
            "port": "metrics",
        }:
            yield f"{name}: {probe} asks the wrong question"


def _claims(pod: Pod) -> list[Manifest]:
    claims: list[Manifest] = pod.owner["spec"].get("volumeClaimTemplates", [])
    return claims


def settings(installation: Installation) -> Iterator[str]:
    """Every variable is a setting, with a value that it takes, and the ports are those that are named."""
    for pod in installation.pods:
        if not pod.ours:
            continue
        environment = installation.environment(pod)
        names = {name.removeprefix("SDQUEUE_").lower() for name in environment}
        for name in sorted(names - set(Settings.model_fields) - {"secrets_dir"}):
            if not _is_of_a_channel(name):
                yield f"{pod.name}: SDQUEUE_{name.upper()} is no setting"
        try:
            made = _settings(environment)
        except ValueError as error:
            yield f"{pod.name}: {error}"
            continue
        if pod.serves and pod.ports.get("metrics") != made.metrics_port:
            yield f"{pod.name} serves metrics on {made.metrics_port}, and not on the port that is named"
        if "http" in pod.ports and (pod.ports["http"], made.producer_host) != (made.producer_port, "0.0.0.0"):
            yield f"{pod.name} listens on {made.producer_host}:{made.producer_port}, and not where it is named"
        unknown = [name for name in made.channels.split(",") if name not in installed_channels()]
        if unknown:
            yield f"{pod.name}: there is no channel {', '.join(unknown)}"
        mounts = {mount["mountPath"]: mount["name"] for c in pod.containers for mount in c["volumeMounts"]}
        if mounts.get(environment.get("SDQUEUE_SECRETS_DIR", "")) != "secrets":
            yield f"{pod.name}: SDQUEUE_SECRETS_DIR is not where its secrets are"
        for ingress in installation.all("Ingress"):
            hosts = {rule["host"] for rule in ingress["spec"]["rules"]} | {
                host for tls in ingress["spec"]["tls"] for host in tls["hosts"]
            }
            if made.channels and made.public_url and hosts != {made.public_url.removeprefix("https://")}:
                yield f"{name_of(ingress)} is for {sorted(hosts)}, and {pod.name} for {made.public_url}"


def _settings(environment: Mapping[str, str]) -> Settings:
    values = {name.removeprefix("SDQUEUE_").lower(): value for name, value in environment.items()}
    return Settings(**{name: value for name, value in values.items() if name in Settings.model_fields})


def _is_of_a_channel(name: str) -> bool:
    for channel in installed_channels():
        prefix = f"{channel.replace('-', '_')}_"
        found = settings_of(channel)
        if found is not None and name.startswith(prefix) and name.removeprefix(prefix) in found.model_fields:
            return True
    return False


def stopping(installation: Installation) -> Iterator[str]:
    """Nobody is killed before it has had its grace, and nobody is waited for much longer."""
    for pod in installation.pods:
        if not pod.ours or not pod.serves:
            continue
        made = _settings(installation.environment(pod))
        before = sum(
            float(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", 0])[-1])
            for container in pod.containers
        )
        needed = before + made.grace_s + MARGIN_S
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        if given < needed:
            yield f"{pod.name} is killed after {given} s, and may need {needed:g}"
        if given > needed + 15:
            yield f"{pod.name} may hang for {given} s, and needs {needed:g} at most"
        if "http" in pod.ports and not before:
            yield f"{pod.name} stops listening while load balancers still send requests"
        if "consumer" in pod.name and made.grace_s < made.turn_timeout_s:
            yield f"{pod.name} breaks turns off that may take {made.turn_timeout_s:g} s, after {made.grace_s:g}"


def numbers(installation: Installation) -> Iterator[str]:
    """What is scaled says no number of its own; the rest has a second one."""
    for deployment in installation.all("Deployment"):
        name, replicas = deployment["metadata"]["name"], deployment["spec"].get("replicas")
        scaler = installation.scaler_of(name)
        if scaler is None and (replicas or 1) < 2:
            yield f"Deployment {name} has {replicas} replica and no scaler"
        if scaler is not None and replicas is not None:
            yield f"Deployment {name} has {replicas} replicas, and {name_of(scaler)} another number"
    for scaler in (*installation.all("HorizontalPodAutoscaler"), *installation.all("ScaledObject")):
        target = scaler["spec"]["scaleTargetRef"]["name"]
        if target not in [d["metadata"]["name"] for d in installation.all("Deployment")]:
            yield f"{name_of(scaler)} scales {target}, which there is not"


def images(installation: Installation) -> Iterator[str]:
    """One image for all of ours, of one release."""
    found = {container["image"] for pod in installation.pods if pod.ours for container in pod.containers}
    if len(found) != 1:
        yield f"ours run {sorted(found)}"
    for pod in installation.pods:
        for container in pod.containers:
            tag = container["image"].rpartition(":")[2]
            if "/" in tag or not re.match(r"\d", tag):
                yield f"{pod.name} runs {container['image']}, of no release"
            if "rabbitmq" in container["image"] and not re.match(r"\d+\.\d+", tag):
                # RabbitMQ starts on the data of the minor release before it, and on no older one.
                yield f"{pod.name} runs {container['image']}, which becomes a release that cannot read its data"


def backlog(installation: Installation) -> Iterator[str]:
    """KEDA counts the turns of all partitions and nothing else, and asks for no more consumers than can work."""
    for scaled in installation.all("ScaledObject"):
        pod = installation.pod("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
        environment = installation.environment(pod)
        topology = Topology(environment["SDQUEUE_NAMESPACE"], int(environment["SDQUEUE_PARTITIONS"]))
        for trigger in scaled["spec"]["triggers"]:
            yield from _trigger(trigger["metadata"], topology, int(environment["SDQUEUE_CONCURRENCY"]))
            wanted = trigger["authenticationRef"]["name"]
            if wanted not in [m["metadata"]["name"] for m in installation.all("TriggerAuthentication")]:
                yield f"there is no TriggerAuthentication {wanted}"
        if scaled["spec"]["maxReplicaCount"] > topology.partitions:
            yield f"{scaled['spec']['maxReplicaCount']} consumers for {topology.partitions} partitions"
        if not 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["fallback"]["replicas"]:
            yield "without RabbitMQ's figures there would be fewer consumers than at least"


def _trigger(metadata: dict[str, Any], topology: Topology, concurrency: int) -> Iterator[str]:
    pattern = re.compile(metadata["queueName"])
    turns = {*topology.turn_queues, *Topology(topology.namespace, 9999).partition_queues}
    missed = sorted(name for name in turns if not pattern.search(name))
    others = [topology.dead, topology.resharding, topology.egress_queue("slack"), f"{topology.namespace}.ask.0a1b",
              f"x{topology.partition_queue(0)}", f"x.{topology.partition_queue(0)}"]  # fmt: skip
    wrong = [name for name in others if pattern.search(name)]
    if missed or wrong:
        yield f"{metadata['queueName']} misses {missed[:2]} and counts {wrong}"
    if metadata.get("excludeUnacknowledged") != "false" or metadata.get("operation") != "sum":
        yield "what consumers have taken ahead is not counted, or not added up"
    if not len(topology.turn_queues) <= int(metadata["pageSize"]) <= 500:
        yield f"a page of {metadata['pageSize']} does not hold {len(topology.turn_queues)} queues, or is refused"
    if not 0 < float(metadata["value"]) < concurrency:
        yield f"{metadata['value']} turns for each consumer, which runs {concurrency} at most: too late"


REVIEWS: Final[dict[str, Review]] = {
    review.__name__: review
    for review in (schemas, selectors, networks, containers, settings, stopping, numbers, images, backlog)
}


def mebibytes(quantity: str) -> float:
    """An amount of memory as Kubernetes writes it."""
    found = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    assert found, quantity
    return int(found[1]) * {"Mi": 1, "Gi": 1024}[found[2]]
