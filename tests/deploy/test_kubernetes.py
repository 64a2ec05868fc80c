"""deploy/kubernetes: what its overlays come to is valid, belongs together and fits the code; each check can fail."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdqueue.cli.app import app
from tests.deploy.manifests import FOLDER, Installation, Manifest, render
from tests.deploy.mistakes import MISTAKES
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


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(mistake: str) -> None:
    overlay, review, make = MISTAKES[mistake]
    it = installation(overlay)
    make(it)
    assert list(REVIEWS[review](it))


# What a single overlay's parts have in common with other files


def test_the_commands_are_those_of_sdqueue() -> None:
    """With --help at the end a command is looked at, not run; an option that there is not is an error all the same."""
    pods = [pod for overlay in OVERLAYS for pod in installation(overlay).pods if pod.ours]
    for arguments in {tuple(container["args"]) for pod in pods for container in pod.containers}:
        asked = CliRunner().invoke(app, [*arguments, "--help"])
        assert asked.exit_code == 0, (arguments, asked.output)
        assert CliRunner().invoke(app, [*arguments, "--nonsense", "--help"]).exit_code == 2


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
        few, many = (it.pod("Deployment", name).containers[0]["resources"] for it in (small, large))
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
