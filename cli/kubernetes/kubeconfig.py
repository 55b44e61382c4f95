"""Reads a kubeconfig: the API server's address, and a token, certificate, or credential plugin for it."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.errors import BadInputError
from shared.io.bounded_read import read_text
from shared.io.yaml_documents import documents

_PLUGIN_SECONDS = 60.0
_MOST_BYTES = 4_000_000
_NO_KUBECONFIG = (OSError, LookupError, TypeError, ValueError, AttributeError, subprocess.SubprocessError)


class ApiAccess(msgspec.Struct, frozen=True):
    """An API server, and a bearer token or a certificate for it."""

    server: str
    certificate_authority: str = ""
    """PEM; empty for the system's certificate authorities."""
    token: str = ""
    certificate: str = ""
    """PEM of certificate and key; empty if the client presents none."""
    insecure: bool = False
    """Whether the server's certificate is not verified, by `insecure-skip-tls-verify` of the kubeconfig."""

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the cluster's CA alone, and presents the client's certificate."""
        try:
            return self._tls()
        except (OSError, ValueError) as error:  # an `SSLError` is an `OSError`
            sentence = f"its certificates or key cannot be used ({error})"
            raise BadInputError("kubeconfig/certificates", sentence, about=self.server) from error

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.certificate_authority or None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            # OpenSSL reads them from a file only; it is private to this user, and deleted at once.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(self.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def read(path: Path, context: str = "") -> ApiAccess:
    """A context of a kubeconfig, the current one if none is named; raises `BadInputError` if it cannot be used."""
    try:
        found = documents(_read(path), code="kubeconfig/unreadable", about=str(path))
        config: Any = found[0] if len(found) == 1 else None
        chosen = _named(config["contexts"], context or config["current-context"])["context"]
        cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
        user = _named(config["users"], chosen["user"])["user"] or {}
        home = path.parent
        if plugin := user.get("exec"):
            user = _from_plugin(plugin, home)
        certificate = _text(user, "client-certificate", home)
        token = user.get("token") or (_read(Path(user["tokenFile"])).strip() if "tokenFile" in user else "")
        if not isinstance(token, str) or not token.isascii() or not (token.isprintable() or not token):
            raise BadInputError("kubeconfig/token", "holds a token that is no line of text", about=str(path))
        return ApiAccess(
            server=_server(cluster["server"]),
            certificate_authority=_text(cluster, "certificate-authority", home),
            token=token,
            certificate=certificate + "\n" + _text(user, "client-key", home) if certificate else "",
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
        )
    except _NO_KUBECONFIG as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise BadInputError(
            "kubeconfig/unreadable", f"cannot be used as a kubeconfig ({what})", about=str(path)
        ) from error


def _server(url: str) -> str:
    """The address of an API server; raises `ValueError` if the URL is not valid."""
    found = urlsplit(url)
    if found.scheme not in {"https", "http"} or not found.hostname or not url.isprintable() or " " in url:
        raise ValueError(f"the server {url[:100]!r} is no address like https://host:6443")
    return url.rstrip("/")


def _text(section: Any, name: str, home: Path) -> str:
    """`name-data`, which is base64, or the file `name`, which is relative to the kubeconfig."""
    if encoded := section.get(f"{name}-data"):
        return base64.b64decode("".join(encoded.split()), validate=True).decode()
    return _read(home / section[name]) if section.get(name) else ""


def _read(path: Path) -> str:
    return read_text(path, code="kubeconfig/unreadable", most=_MOST_BYTES)


def _from_plugin(plugin: Any, home: Path) -> dict[str, Any]:
    """Run a credential plugin (client.authentication.k8s.io); returns its credentials as a user of a kubeconfig."""
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
