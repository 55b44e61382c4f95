"""Where the Kubernetes API is and who we are to it, from a kubeconfig: token, certificate, or credential plugin."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shared.errors import BadInputError

_PLUGIN_SECONDS = 60.0


class Access(msgspec.Struct, frozen=True):
    """An API server, and a bearer token or a certificate for it."""

    server: str
    certificate_authority: str = ""
    """PEM; empty: the system's."""
    token: str = ""
    certificate: str = ""
    """PEM of certificate and key; empty: none is shown."""
    insecure: bool = False
    """Whether the server's certificate is believed unseen, because the kubeconfig says so."""

    def tls(self) -> ssl.SSLContext:
        """Trusts the cluster's CA and nothing else, and shows our certificate."""
        context = ssl.create_default_context(cadata=self.certificate_authority or None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            # OpenSSL takes them from a file only; it is ours alone, and gone at once.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(self.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def read(path: Path, context: str = "") -> Access:
    """A context of a kubeconfig, the current one if none is named; raises `BadInputError` if it cannot be used."""
    try:
        config: Any = yaml.safe_load(path.read_text())
        chosen = _named(config["contexts"], context or config["current-context"])["context"]
        cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
        user = _named(config["users"], chosen["user"])["user"] or {}
        home = path.parent
        if plugin := user.get("exec"):
            user = _from_plugin(plugin, home)
        certificate = _text(user, "client-certificate", home)
        return Access(
            server=cluster["server"].rstrip("/"),
            certificate_authority=_text(cluster, "certificate-authority", home),
            token=user.get("token") or (Path(user["tokenFile"]).read_text().strip() if "tokenFile" in user else ""),
            certificate=certificate + "\n" + _text(user, "client-key", home) if certificate else "",
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
        )
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError, subprocess.SubprocessError) as error:
        raise BadInputError(
            "kubeconfig/unreadable",
            f"cannot be used as a kubeconfig ({type(error).__name__}: {error})",
            about=str(path),
        ) from error


def _text(section: Any, name: str, home: Path) -> str:
    """`name-data`, which is base64, or the file `name`, which is relative to the kubeconfig."""
    if encoded := section.get(f"{name}-data"):
        return base64.b64decode(encoded).decode()
    return (home / section[name]).read_text() if section.get(name) else ""


def _from_plugin(plugin: Any, home: Path) -> dict[str, Any]:
    """What a credential plugin (client.authentication.k8s.io) answers, as a user of a kubeconfig."""
    program = plugin["command"]
    argv = [str(home / program) if "/" in program else program, *(plugin.get("args") or [])]
    spec = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    variables = {each["name"]: each["value"] for each in plugin.get("env") or []}
    environment = {**os.environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(spec)}
    done = subprocess.run(  # noqa: S603 (the user's own kubeconfig names it, as for kubectl)
        argv, env=environment, stdout=subprocess.PIPE, check=True, timeout=_PLUGIN_SECONDS
    )
    status = json.loads(done.stdout)["status"]
    user: dict[str, Any] = {"token": status.get("token", "")}
    for ours, theirs in (("client-certificate-data", "clientCertificateData"), ("client-key-data", "clientKeyData")):
        if status.get(theirs):
            user[ours] = base64.b64encode(status[theirs].encode()).decode()
    return user


def _named(entries: Any, name: str) -> Any:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)
