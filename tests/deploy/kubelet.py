"""A pod of the manifests as a container: what its manifest says of it, a Docker engine is told."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.deploy.engine import Container, Engine
from tests.deploy.manifests import Installation, Manifest, Pod, matches

Files = Mapping[str, bytes]


class Kubelet:
    """Runs pods of one container each.

    Parameters:
        engine: where.
        installation: what of.
        secrets: the Secrets by name, as manifests.
        images: for the images of the manifests, those to run.
        namespace: where the pods are, for the long names of Services.
        network: of the containers.
        folder: for the files of Secrets and ConfigMaps.
    """

    def __init__(
        self,
        engine: Engine,
        installation: Installation,
        secrets: Mapping[str, Manifest],
        images: Mapping[str, str],
        *,
        namespace: str,
        network: str,
        folder: Path,
    ) -> None:
        self.engine = engine
        self.installation = installation
        self.secrets = secrets
        self._images = images
        self._namespace = namespace
        self._network = network
        self._folder = folder
        self._volumes = ExitStack()

    def close(self) -> None:
        """Remove the disks."""
        self._volumes.close()

    @contextmanager
    def run(self, pod: Pod) -> Iterator[Container]:
        """The pod; its disk stays for the next one of the name."""
        (container,) = pod.containers
        name = f"kubernetes-{self._folder.name}-{pod.owner['metadata']['name']}"
        options = [*self._confinement(pod, container), *self._mounts(pod, container), *self._names(pod)]
        for key, value in {**self.installation.environment(pod), **self._secret_environment(container)}.items():
            options.append(f"--env={key}={value}")
        entry, *more = container.get("command", [""])
        if entry:
            options.append(f"--entrypoint={entry}")
        image = self._images[container["image"]]
        with self.engine.container(image, *more, *container.get("args", []), options=options, name=name) as running:
            yield running

    def _names(self, pod: Pod) -> Iterator[str]:
        yield f"--network={self._network}"
        yield f"--hostname={pod.owner['metadata']['name']}-0"
        for service in self.installation.all("Service"):
            if matches({"matchLabels": service["spec"]["selector"]}, pod.labels):
                yield f"--network-alias={service['metadata']['name']}"
                yield f"--network-alias={service['metadata']['name']}.{self._namespace}.svc"

    def _confinement(self, pod: Pod, container: Manifest) -> Iterator[str]:
        security = {**pod.spec["securityContext"], **container["securityContext"]}
        yield f"--user={security['runAsUser']}:{security['runAsGroup']}"
        yield f"--group-add={security['fsGroup']}"
        yield f"--memory={container['resources']['limits']['memory'].removesuffix('i').lower()}"
        yield from (f"--cap-drop={capability}" for capability in security["capabilities"]["drop"])
        if security["readOnlyRootFilesystem"]:
            yield "--read-only"
        if not security["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"

    def _secret_environment(self, container: Manifest) -> dict[str, str]:
        found = {}
        for source in container.get("envFrom", []):
            secret = self.secrets.get(source.get("secretRef", {}).get("name", ""))
            if secret is not None:
                found |= {key: value.decode() for key, value in decoded(secret).items()}
        return found

    def _mounts(self, pod: Pod, container: Manifest) -> Iterator[str]:
        group = pod.spec["securityContext"]["fsGroup"]
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for mount in container["volumeMounts"]:
            volume = volumes.get(mount["name"])
            if volume is None:
                yield f"--volume={self._disk(pod, mount['name'], group)}:{mount['mountPath']}"
            elif "emptyDir" in volume:
                yield f"--tmpfs={mount['mountPath']}:mode=1777"
            else:
                inside = f"/{mount['subPath']}" if "subPath" in mount else ""
                yield f"--volume={self._files(volume, group)}{inside}:{mount['mountPath']}:ro"

    def _files(self, volume: Manifest, group: int) -> Path:
        if "secret" in volume:
            name, mode = volume["secret"]["secretName"], volume["secret"]["defaultMode"]
            files: Files = decoded(self.secrets[name])
        else:
            name, mode = volume["configMap"]["name"], 0o644
            files = {k: v.encode() for k, v in self.installation.get("ConfigMap", name)["data"].items()}
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            path = folder / file
            path.write_bytes(content)
            path.chmod(mode)
            os.chown(path, 0, group)
        return folder

    def _disk(self, pod: Pod, claim: str, group: int) -> str:
        name = f"kubernetes-{self._folder.name}-{pod.owner['metadata']['name']}-{claim}"
        if self.engine.attempt("volume", "inspect", name).returncode:
            self.engine.run("volume", "create", name)
            self._volumes.callback(self.engine.attempt, "volume", "rm", "--force", name)
            image = self._images[pod.containers[0]["image"]]
            options = ("--rm", "--user=0:0", "--entrypoint=sh", f"--volume={name}:/disk", image)
            self.engine.run("run", *options, "-c", f"chgrp {group} /disk && chmod 2775 /disk")
        return name


def decoded(secret: Manifest) -> dict[str, bytes]:
    """What is in a Secret."""
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}
