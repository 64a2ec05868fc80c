"""The image's locks fit what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.engine import DOCKERFILE, ROOT

EXTRA: Final = "image"
ENVIRONMENTS: Final = [
    {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine,
     "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
     "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for python in ("3.11", "3.12", "3.13") for machine in ("x86_64", "aarch64")
]  # fmt: skip

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK: Final = (DOCKERFILE.parent / "requirements.txt").read_text()
BUILD: Final = (DOCKERFILE.parent / "build.txt").read_text()


def asked(project: dict[str, Any], extra: str = EXTRA) -> set[str]:
    """The requirements of the package with an extra; extras of its own that the extra names are followed."""
    direct = set(project["dependencies"])
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != project["name"]:
            direct.add(text)
        for name in requirement.extras if canonicalize_name(requirement.name) == project["name"] else ():
            direct |= asked(project, name)
    return direct


def entries(lock: str) -> Iterator[tuple[Requirement, str]]:
    """What is in a lock: requirements, each with its hashes and why it is there."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"\A(#.*\n)+", "", lock)):
        line, _, rest = entry.partition("\\\n")
        yield Requirement(line), rest


def problems(requirements: set[str], lock: str) -> list[str]:
    """What the lock does not have of the requirements, or has wrong."""
    found = []
    for text in sorted(requirements):
        wanted = Requirement(text)
        for environment in ENVIRONMENTS:
            if wanted.marker and not wanted.marker.evaluate(environment):
                continue
            pins = [
                pin for pin, _ in entries(lock)
                if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
                and (pin.marker is None or pin.marker.evaluate(environment))
            ]  # fmt: skip
            versions = [specifier.version for pin in pins for specifier in pin.specifier if specifier.operator == "=="]
            if len(versions) != 1 or not wanted.specifier.contains(versions[0], prereleases=True):
                found.append(f"{text} on {environment['python_version']}: {versions or 'is not there'}; run make lock")
                break
    return found


def test_what_the_image_needs_is_locked() -> None:
    assert problems(asked(PROJECT["project"]), LOCK) == []


def test_nothing_else_is_locked() -> None:
    """What nobody asks for any more is not installed either: each pin names what it is there for."""
    names = {canonicalize_name(Requirement(text).name) for text in asked(PROJECT["project"])}
    direct = {canonicalize_name(pin.name) for pin, rest in entries(LOCK) if "sdqueue (pyproject.toml)" in rest}
    assert direct == names
    assert all("# via" in rest for _, rest in entries(LOCK))


def test_the_tools_of_the_build_are_locked() -> None:
    wanted = {line for line in (DOCKERFILE.parent / "build.in").read_text().splitlines() if not line.startswith("#")}
    assert set(PROJECT["build-system"]["requires"]) <= wanted
    assert problems(wanted, BUILD) == []


@pytest.mark.parametrize("lock", [LOCK, BUILD])
def test_a_lock_has_hashes_and_no_host(lock: str) -> None:
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", rest) for _, rest in entries(lock))
    assert not re.search(r"://|index-url|find-links|trusted-host", lock)


def test_the_image_has_all_producers_and_what_consumers_need_with_servers() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    producers = {name for name, needs in extras.items() if "sdqueue[producers]" in needs}
    (image,) = (Requirement(text) for text in extras[EXTRA])
    assert image.extras == producers | {"openai", "encryption"}


def test_the_label_has_the_version_of_the_package() -> None:
    assert f"\nARG VERSION={PROJECT['project']['version']}\n" in DOCKERFILE.read_text()


@pytest.mark.parametrize("change", ["added", "raised", "extra", "marked"])
def test_a_change_without_a_new_lock_is_noticed(change: str) -> None:
    project = {**PROJECT["project"], "optional-dependencies": dict(PROJECT["project"]["optional-dependencies"])}
    if change == "added":
        project["dependencies"] = [*project["dependencies"], "flask>=3"]
    elif change == "raised":
        project["dependencies"] = [text.replace("redis[hiredis]>=6", "redis>=1000") for text in project["dependencies"]]
    elif change == "extra":
        project["optional-dependencies"]["slack"] = ["sdqueue[producers]", "slack_sdk>=1000"]
    else:
        project["dependencies"] = [*project["dependencies"], "flask>=3; platform_machine == 'aarch64'"]
    assert len(problems(asked(project), LOCK)) == 1
