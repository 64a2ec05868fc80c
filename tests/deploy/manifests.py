"""What an installation consists of once kustomize has put it together, and how its parts belong together."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import refuse

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"

Manifest = dict[str, Any]
Labels = Mapping[str, str]


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send."""
    tool = next((words for words in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(words[0])), None)
    if tool is None:
        refuse("the manifests cannot be put together: neither kubectl nor kustomize is installed", os.environ)
    made = subprocess.run([*tool, str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, f"kustomize warns of something: {made.stderr}"
    return [manifest for manifest in yaml.safe_load_all(made.stdout) if manifest]


@dataclass(frozen=True)
class Pod:
    """A pod as something makes it: a Deployment, a StatefulSet, a Job."""

    owner: Manifest

    @property
    def name(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def labels(self) -> Labels:
        labels: Labels = self.owner["spec"]["template"]["metadata"].get("labels", {})
        return labels

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.owner["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}

    @property
    def ours(self) -> bool:
        """Whether it runs sdqueue, and not a server."""
        return self.labels.get("app.kubernetes.io/name") == "sdqueue"

    @property
    def serves(self) -> bool:
        """Whether it is to run for ever."""
        return self.owner["kind"] != "Job"


class Installation:
    """All manifests of an overlay."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = list(manifests)

    def all(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def get(self, kind: str, name: str) -> Manifest:
        return next(manifest for manifest in self.all(kind) if manifest["metadata"]["name"] == name)

    @property
    def pods(self) -> list[Pod]:
        return [Pod(m) for m in self.manifests if m["kind"] in ("Deployment", "StatefulSet", "Job")]

    def pod(self, kind: str, name: str) -> Pod:
        return Pod(self.get(kind, name))

    def selected(self, selector: Manifest | None) -> list[Pod]:
        """The pods that a label selector takes."""
        return [pod for pod in self.pods if matches(selector or {}, pod.labels)]

    def environment(self, pod: Pod) -> dict[str, str]:
        """What its containers find, but for Secrets. Later sources win, and what a container names wins over all."""
        found: dict[str, str] = {}
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    found |= self.get("ConfigMap", source["configMapRef"]["name"]).get("data", {})
            found |= {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        return found

    def scaler_of(self, deployment: str) -> Manifest | None:
        """What decides how many there are, apart from the manifest."""
        for manifest in (*self.all("HorizontalPodAutoscaler"), *self.all("ScaledObject")):
            if manifest["spec"]["scaleTargetRef"]["name"] == deployment:
                return manifest
        return None

    def secrets(self) -> Iterator[tuple[str, bool]]:
        """The Secrets that pods and KEDA read, and whether they must be there."""
        for pod in self.pods:
            for volume in pod.spec.get("volumes", []):
                if "secret" in volume:
                    yield volume["secret"]["secretName"], not volume["secret"].get("optional", False)
            for container in pod.containers:
                for source in container.get("envFrom", []):
                    if "secretRef" in source:
                        yield source["secretRef"]["name"], not source["secretRef"].get("optional", False)
        for manifest in self.all("TriggerAuthentication"):
            yield from ((ref["name"], True) for ref in manifest["spec"]["secretTargetRef"])


def matches(selector: Manifest, labels: Labels) -> bool:
    """Whether a label selector takes something with these labels; an empty one takes all."""
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions", [])
    )


def _holds(expression: Manifest, labels: Labels) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(f"no such operator: {expression['operator']}")
