"""Where the Kubernetes API is and who we are to it, from a kubeconfig: just what the embedded mesh writes."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shared.errors import BadInputError


class Access(msgspec.Struct, frozen=True):
    """An API server and a bearer token for it."""

    server: str
    certificate_authority: str
    """PEM."""
    token: str

    def tls(self) -> ssl.SSLContext:
        """Trusts the cluster's CA and nothing else."""
        return ssl.create_default_context(cadata=self.certificate_authority)


def read(path: Path) -> Access:
    """The current context of a kubeconfig that holds a CA and a token; raises `BadInputError` for any other."""
    try:
        config: Any = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        return Access(
            server=cluster["server"],
            certificate_authority=base64.b64decode(cluster["certificate-authority-data"]).decode(),
            token=user["token"],
        )
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInputError(
            "kubeconfig/unreadable",
            f"cannot be used as a kubeconfig with a CA and a token ({type(error).__name__}: {error})",
            about=str(path),
        ) from error


def _named(entries: Any, name: str) -> Any:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)
