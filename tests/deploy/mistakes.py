"""Mistakes that somebody makes one day in the manifests: the overlay, the review that must see it, what it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tests.deploy.manifests import Installation, Manifest

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


S: Final = "small"
L: Final = "large"

COMPONENT: Final = "app.kubernetes.io/component"

MISTAKES: Final[dict[str, tuple[str, str, Mutant]]] = {
    "a field that there is not": (S, "schemas", lambda it: _pod(it).update(nodeSelectors={})),
    "a number for a text": (S, "schemas", lambda it: _config(it, "sdqueue").update(SDQUEUE_PARTITIONS=64)),
    "a misspelt field of KEDA's": (L, "schemas", lambda it: _scaled(it).update(minReplicas=2)),
    "a number for a text of KEDA's": (L, "schemas", lambda it: _trigger(it).update(value=300)),
    "a trigger of KEDA's without its protocol": (L, "schemas", lambda it: _trigger(it).pop("protocol")),
    "a label lost": (
        "small",
        "selectors",
        lambda it: it.get("Deployment", "sdqueue-consumer")["spec"]["template"]["metadata"]["labels"].pop(COMPONENT),
    ),
    "a Service of nobody": (
        "small",
        "selectors",
        lambda it: it.get("Service", "sdqueue-producer")["spec"]["selector"].update({COMPONENT: "x"}),
    ),
    "a port of a Service misnamed": (
        "small",
        "selectors",
        lambda it: it.get("Service", "sdqueue-redis")["spec"]["ports"][0].update(targetPort="tcp"),
    ),
    "a budget of nobody": (
        "large",
        "selectors",
        lambda it: it.get("PodDisruptionBudget", "sdqueue-egress")["spec"]["selector"]["matchLabels"].update(
            {COMPONENT: "producer"}
        ),
    ),
    "a way in to nowhere": (
        "large",
        "selectors",
        lambda it: it.get("Ingress", "sdqueue")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(
            name="sdqueue"
        ),
    ),
    "nothing denied": (
        "small",
        "networks",
        lambda it: it.manifests.remove(it.get("NetworkPolicy", "sdqueue-default-deny")),
    ),
    "everybody let in": (S, "networks", lambda it: _policy(it, "sdqueue-http")["ingress"][0].pop("from")),
    "no DNS by TCP": (S, "networks", lambda it: _policy(it, "sdqueue-dns")["egress"][0]["ports"].pop()),
    "no DNS from a node": (L, "networks", lambda it: _policy(it, "sdqueue-dns")["egress"][0]["to"].pop()),
    "out to every port": (S, "networks", lambda it: _policy(it, "sdqueue-https")["egress"][0].pop("ports")),
    "out to Redis, by another port": (
        "small",
        "networks",
        lambda it: _policy(it, "sdqueue-redis")["egress"][0]["ports"][0].update(port=6380),
    ),
    "a policy for nobody": (
        "small",
        "networks",
        lambda it: _policy(it, "sdqueue-redis-ingress")["podSelector"].update(matchLabels={"a": "b"}),
    ),
    "nobody may read the metrics": (
        "large",
        "networks",
        lambda it: it.manifests.remove(it.get("NetworkPolicy", "sdqueue-metrics")),
    ),
    "no liveness": (S, "containers", lambda it: _container(it).pop("livenessProbe")),
    "liveness by the state of the broker": (
        "small",
        "containers",
        lambda it: _container(it)["livenessProbe"]["httpGet"].update(path="/readyz"),
    ),
    "a probe of another port": (
        "small",
        "containers",
        lambda it: _container(it, "sdqueue-rabbitmq", "StatefulSet")["startupProbe"]["tcpSocket"].update(port="amqp"),
    ),
    "no memory asked for": (L, "containers", lambda it: _container(it)["resources"]["requests"].pop("memory")),
    "a throttled loop": (L, "containers", lambda it: _container(it)["resources"]["limits"].update(cpu="1")),
    "a writable root": (
        "large",
        "containers",
        lambda it: _container(it, "sdqueue-egress")["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "as root": (
        "small",
        "containers",
        lambda it: _pod(it, "sdqueue-redis", "StatefulSet")["securityContext"].pop("runAsNonRoot"),
    ),
    "a token": (
        "small",
        "containers",
        lambda it: _pod(it, "sdqueue-topology", "Job").pop("automountServiceAccountToken"),
    ),
    "Services in the environment": (
        "small",
        "containers",
        lambda it: _pod(it, "sdqueue-producer").pop("enableServiceLinks"),
    ),
    "a ServiceAccount that there is not": (
        "small",
        "containers",
        lambda it: _pod(it).update(serviceAccountName="default"),
    ),
    "a volume that nobody mounts": (
        "small",
        "containers",
        lambda it: _container(it)["volumeMounts"].pop(0),
    ),
    "a setting misspelt": (
        "small",
        "settings",
        lambda it: _config(it, "sdqueue-consumer").update(SDQUEUE_CONCURENCY="512"),
    ),
    "a setting of a channel misspelt": (
        "small",
        "settings",
        lambda it: _config(it, "sdqueue").update(SDQUEUE_WEBCHAT_ANONYMUS="true"),
    ),
    "a value that will not do": (
        "small",
        "settings",
        lambda it: _config(it, "sdqueue").update(SDQUEUE_PARTITIONS="many"),
    ),
    "a channel that there is not": (
        "small",
        "settings",
        lambda it: _config(it, "sdqueue").update(SDQUEUE_CHANNELS="irc"),
    ),
    "metrics elsewhere": (S, "settings", lambda it: _config(it, "sdqueue").update(SDQUEUE_METRICS_PORT="9465")),
    "a producer for itself": (
        "small",
        "settings",
        lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_PRODUCER_HOST="127.0.0.1"),
    ),
    "another public address": (
        "large",
        "settings",
        lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_PUBLIC_URL="https://chat.example.com"),
    ),
    "secrets elsewhere": (S, "settings", lambda it: _container(it)["env"][0].update(value="/run/secrets")),
    "killed too early": (S, "stopping", lambda it: _pod(it).update(terminationGracePeriodSeconds=120)),
    "a longer grace that nobody waits for": (
        "large",
        "stopping",
        lambda it: _config(it, "sdqueue-producer").update(SDQUEUE_GRACE_S="60"),
    ),
    "the default grace of Kubernetes": (
        "small",
        "stopping",
        lambda it: _pod(it, "sdqueue-producer").pop("terminationGracePeriodSeconds"),
    ),
    "longer turns than grace": (
        "small",
        "stopping",
        lambda it: _config(it, "sdqueue-consumer").update(SDQUEUE_TURN_TIMEOUT_S="300"),
    ),
    "requests cut off": (S, "stopping", lambda it: _container(it, "sdqueue-producer").pop("lifecycle")),
    "two that decide how many": (
        "large",
        "numbers",
        lambda it: it.get("Deployment", "sdqueue-consumer")["spec"].update(replicas=3),
    ),
    "alone": (S, "numbers", lambda it: it.get("Deployment", "sdqueue-consumer")["spec"].update(replicas=1)),
    "nobody scaled": (L, "numbers", lambda it: _scaled(it)["scaleTargetRef"].update(name="consumer")),
    "two releases": (L, "images", lambda it: _container(it, "sdqueue-egress").update(image="sdqueue:0.0.9")),
    "any minor release of RabbitMQ": (
        "small",
        "images",
        lambda it: _container(it, "sdqueue-rabbitmq", "StatefulSet").update(image="rabbitmq:4-management"),
    ),
    "the latest": (S, "images", lambda it: _container(it, "sdqueue-redis", "StatefulSet").update(image="redis")),
    "another namespace": (L, "backlog", lambda it: _config(it, "sdqueue").update(SDQUEUE_NAMESPACE="bot")),
    "one partition": (L, "backlog", lambda it: _trigger(it).update(queueName=r"^sdqueue\.turns\.0000$")),
    "dead letters counted": (L, "backlog", lambda it: _trigger(it).update(queueName=r"^sdqueue\.")),
    "no end of the pattern": (
        "large",
        "backlog",
        lambda it: _trigger(it).update(queueName=r"sdqueue\.(turns|unrouted)"),
    ),
    "without what is taken ahead": (L, "backlog", lambda it: _trigger(it).update(excludeUnacknowledged="true")),
    "the mean": (L, "backlog", lambda it: _trigger(it).update(operation="avg")),
    "a page too short": (L, "backlog", lambda it: _trigger(it).update(pageSize="64")),
    "a page too long": (L, "backlog", lambda it: _trigger(it).update(pageSize="501")),
    "more than partitions": (L, "backlog", lambda it: _scaled(it).update(maxReplicaCount=65)),
    "scaled too late": (L, "backlog", lambda it: _trigger(it).update(value="600")),
    "no key to RabbitMQ": (
        "large",
        "backlog",
        lambda it: it.manifests.remove(it.get("TriggerAuthentication", "sdqueue-monitor")),
    ),
}
