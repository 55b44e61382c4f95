"""The volumes of one pod: created before its first container starts, and updated while it runs.

Volumes are below one directory on a tmpfs of the process's mount namespace: no token reaches a disk, and nothing is
left when the devcluster ends. The exceptions are hostPath and claims (`controllers/volume_claims.py`), which are
directories of the machine.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container import environment
from deploy.devcluster.kubelet.container.environment import Lookup, UnresolvedError
from deploy.devcluster.kubelet.pod import volume_payload
from deploy.devcluster.kubelet.pod.atomic_directory import AtomicDirectory
from deploy.devcluster.kubelet.pod.volume_payload import VolumeFile
from deploy.devcluster.runtime import Mount
from deploy.devcluster.settings import LOG_DATA
from shared.names import MESH_NAMESPACE

API_ACCESS_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_API_ACCESS = "kube-api-access"
_RENEW_AT = 0.8


class ServiceAccountToken(msgspec.Struct, frozen=True):
    """A service-account token."""

    token: str
    expires_at: float
    """Seconds since 1970."""


class ServiceAccountTokens(Protocol):
    """Issues service-account tokens; implemented by the API server."""

    async def __call__(self, pod: Obj, *, audience: str, expiration_seconds: int) -> ServiceAccountToken:
        """Issue a token of the pod's service account, bound to the pod. The default audience is the API server.

        Raises `KubeApiError` if the service account does not exist.
        """
        ...


class PodVolumes:
    """Volumes of one pod."""

    def __init__(
        self,
        pod: Obj,
        *,
        directory: Path,
        claims: Path,
        state: Path,
        lookup: Lookup,
        issue: ServiceAccountTokens,
        root_ca: str,
        automount: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._claims = claims
        self._state = state
        self._lookup = lookup
        self._issue = issue
        self._now = now
        self._volumes: dict[str, Obj] = {each["name"]: each for each in pod["spec"].get("volumes") or []}
        self._automount = automount
        if automount:
            self._volumes[_API_ACCESS] = volume_payload.api_access(root_ca)
        self._sources: dict[str, Path] = {}
        self._atomic: dict[str, AtomicDirectory] = {}
        self._tokens: dict[tuple[str, str], tuple[ServiceAccountToken, float]] = {}
        """(volume, path) → token and time of renewal in seconds since 1970."""
        self._writing = asyncio.Lock()

    @property
    def references(self) -> set[tuple[str, str]]:
        """ConfigMaps, Secrets and claims that the volumes depend on."""
        return {reference for volume in self._volumes.values() for reference in volume_payload.references_of(volume)}

    async def write(self, pod: Obj) -> float | None:
        """Write all volumes. Returns when (seconds since 1970) the next token must be renewed, or None.

        Raises `UnresolvedError` while an object that a volume refers to is missing; the caller retries.
        """
        async with self._writing:
            for name, volume in self._volumes.items():
                await self._write(name, volume, pod)
        return min((due for _, due in self._tokens.values()), default=None)

    async def _write(self, name: str, volume: Obj, pod: Obj) -> None:
        files = volume_payload.files_of(volume, pod, self._lookup)
        if files is None:
            if name not in self._sources:
                self._sources[name] = self._plain(name, volume, pod)
            return
        for request in volume_payload.tokens_of(volume):
            token = await self._token(name, request, pod)
            files[request.path] = VolumeFile(token.token.encode(), request.mode)
        path = self._directory / name
        self._atomic.setdefault(name, AtomicDirectory(path)).write(files)
        self._sources[name] = path

    async def _token(self, name: str, request: volume_payload.TokenProjection, pod: Obj) -> ServiceAccountToken:
        held = self._tokens.get((name, request.path))
        now = self._now()
        if held is not None and now < held[1]:
            return held[0]
        token = await self._issue(pod, audience=request.audience, expiration_seconds=request.expiration_seconds)
        self._tokens[name, request.path] = token, now + _RENEW_AT * (token.expires_at - now)
        return token

    def _plain(self, name: str, volume: Obj, pod: Obj) -> Path:
        if "emptyDir" in volume:
            path = self._directory / name
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
            return path
        if "hostPath" in volume:
            self._check_host_path(name, Path(volume["hostPath"]["path"]), object_fields.namespace(pod))
            return _host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return self._claimed(volume["persistentVolumeClaim"]["claimName"], pod)
        kinds = ", ".join(sorted(volume.keys() - {"name"})) or "nothing"
        raise UnresolvedError(f'volume "{name}" is of a kind that the devcluster does not have: {kinds}')

    def _claimed(self, claim: str, pod: Obj) -> Path:
        found = self._lookup("persistentvolumeclaims", claim)
        lack = "not found"
        if found is not None:
            bound = (found.get("status") or {}).get("phase") == "Bound"
            lack = "is being deleted" if object_fields.is_terminating(found) else "" if bound else "is not bound yet"
        if lack:
            raise UnresolvedError(f'persistentvolumeclaim "{claim}" {lack}', reason="ContainerCreating")
        return self._claims / object_fields.namespace(pod) / claim

    def _check_host_path(self, name: str, path: Path, namespace: str) -> None:
        """Reject a hostPath in the state directory, which contains keys and tokens, except that of the mesh's log."""
        state, path = self._state.resolve(), path.resolve()
        if not path.is_relative_to(state):
            return
        if namespace != MESH_NAMESPACE or path != state / LOG_DATA:
            raise UnresolvedError(
                f'volume "{name}": hostPath {path} lies in the state directory of this mesh; use another directory'
            )

    def mounts(self, container: Obj, variables: Mapping[str, str]) -> list[Mount]:
        """The mounts of a container. Raises `UnresolvedError` for an unknown volume or an invalid subPath."""
        mounts: list[Mount] = []
        for each in container.get("volumeMounts") or []:
            source = self._sources.get(each["name"])
            if source is None:
                raise UnresolvedError(f'container "{container["name"]}" mounts "{each["name"]}", which is no volume')
            inside = environment.expand(each.get("subPathExpr") or "", variables) or each.get("subPath") or ""
            if inside:
                source = _inside(source, inside)
            mounts.append(Mount(source, Path(each["mountPath"]), bool(each.get("readOnly"))))
        if self._automount and all(str(mount.target) != API_ACCESS_PATH for mount in mounts):
            mounts.append(Mount(self._sources[_API_ACCESS], Path(API_ACCESS_PATH), read_only=True))
        return mounts

    def remove(self) -> None:
        """Remove the files that were created for this pod."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _host_path(source: Obj) -> Path:
    path = Path(source["path"])
    match source.get("type") or "":
        case "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        case "FileOrCreate":
            path.touch()
        case "Directory" if not path.is_dir():
            raise UnresolvedError(f"hostPath {path} is no directory", reason="ContainerCreating")
        case "File" if not path.is_file():
            raise UnresolvedError(f"hostPath {path} is no file", reason="ContainerCreating")
        case _:
            if not path.exists():
                raise UnresolvedError(f"hostPath {path} does not exist", reason="ContainerCreating")
    return path


def _inside(source: Path, inside: str) -> Path:
    """Resolve a subPath; as on Kubernetes it is fixed when the container starts, also in atomic directories."""
    if Path(inside).is_absolute() or ".." in Path(inside).parts:
        raise UnresolvedError(f"subPath `{inside}` must stay inside its volume")
    # Checked first: creating it through a link of a container would write to the machine.
    resolved = (source / inside).resolve()
    if not resolved.is_relative_to(source.resolve()):
        raise UnresolvedError(f"subPath `{inside}` leads out of its volume")
    if not resolved.exists():
        resolved.mkdir(parents=True)
    return resolved
