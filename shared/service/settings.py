"""Settings: one frozen struct a service, read from flags, the environment and a file, in that order of precedence.

A field `nats_url` is the flag `--nats-url`, the variable `MESHLOG_NATS_URL` and the key `nats_url` of the file given
by `--config` (or `MESHLOG_CONFIG`; YAML, of which JSON is a part). The docstring under a field is its line in `--help`
and states unit and meaning; the default is added. A flag or key that no field has is refused; an unknown variable
is not, because Kubernetes itself puts `MESHLOG_…_SERVICE_HOST` into every pod beside a Service of ours.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from shared.errors import BadInputError
from shared.io.decoding import UndecodableError, convert
from shared.names import HTTP_PORT, MESH_NAMESPACE, NATS_PORT
from shared.records.subjects import Streams

PREFIX = "MESHLOG_"
_MOST_FILE_BYTES = 1_000_000


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service has."""

    nats_url: str = f"nats://127.0.0.1:{NATS_PORT}"
    """Servers of the log, separated by commas."""
    nats_user: str = ""
    """User at the log; empty: none is given."""
    nats_password_file: str = ""
    """File that holds the password of that user; read at each connect, so that it may be rotated."""
    nats_ca_file: str = ""
    """PEM file of the CAs that may vouch for the log's servers; empty: no TLS, or the system's CAs for `tls://`."""
    nats_accounts: bool = False
    """Whether each stream is in an account of its own, as our own servers have it where users have passwords."""
    prefix: str = "mesh"
    """Prefix of streams and subjects; meshes that share a NATS cluster differ in it."""
    replicas: int = 1
    """Copies of each stream that this service creates: 1, or 3 on a NATS cluster."""
    durable: bool = False
    """Whether to refuse a log that can lose what it acknowledged: streams with fewer than 3 copies, in memory, or that
    drop old events."""
    cluster: str = "devcluster"
    """Name of this Kubernetes cluster in the log."""
    mesh_name: str = "meshlog"
    """Namespaces labelled `openservicemesh.io/monitored-by` with this name are members."""
    namespace: str = MESH_NAMESPACE
    """Namespace of the control plane."""
    trust_domain: str = "cluster.local"
    """Trust domain of the SPIFFE identities."""
    budgets: tuple[str, ...] = ()
    """Limits of objects and namespaces that differ from their defaults, NAME=NUMBER each; docs/policy.md has the names.
    The compiler, the injector and the commands need the same value."""
    instance: str = ""
    """Unique name of this process, the pod's name on Kubernetes; empty: the host's name."""
    http_host: str = "127.0.0.1"
    """Address of `/healthz`, `/readyz` and `/metrics`."""
    http_port: int = HTTP_PORT
    """Port of those; 0: none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written."""
    log_levels: tuple[str, ...] = ()
    """Packages and modules whose level differs, PACKAGE=LEVEL each, as in `services.ca=debug`; it holds for everything
    below that name, unless a longer name has a level of its own."""
    log_format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for eyes."""
    trace_file: str = ""
    """File that spans are appended to, one OTLP/JSON object a line; empty: none are kept."""
    stop_within: float = 8.0
    """Seconds that a graceful stop may take."""
    die_with_parent: bool = False
    """Whether the kernel ends this process when the one that started it ends (Linux)."""

    @property
    def streams(self) -> Streams:
        """Names of the streams and subjects of this mesh."""
        return Streams(prefix=self.prefix)


_ARTICLE = {str: "text", int: "an integer", float: "a number", bool: "true or false"}

S = TypeVar("S", bound=msgspec.Struct)


def load(
    settings_type: type[S], argv: Sequence[str], environ: Mapping[str, str], file: Path | None = None, *, command: str
) -> S:
    """Read the settings of one service; flags win over the environment, that over the file.

    Raises `BadInputError` with a sentence that names source and key; `SystemExit(0)` after printing `--help`.
    """
    hints = get_type_hints(settings_type)
    fields = {field.name: hints[field.name] for field in msgspec.structs.fields(settings_type)}
    flags = _read_flags(argv, fields, command)
    if "help" in flags:
        print(describe(settings_type, command))  # noqa: T201 (it is what was asked for)
        raise SystemExit(0)
    variables = {
        name: (f"{PREFIX}{name.upper()}", environ[f"{PREFIX}{name.upper()}"])
        for name in fields
        if f"{PREFIX}{name.upper()}" in environ
    }
    config = flags.pop("config", ("", environ.get(f"{PREFIX}CONFIG", "")))[1]
    path = Path(config) if config else file
    merged: dict[str, tuple[str, Any]] = {**(_read_file(path, fields) if path else {}), **variables, **flags}
    values = {name: _convert(source, value, fields[name]) for name, (source, value) in merged.items()}
    try:
        return settings_type(**values)
    except TypeError as error:
        missing = [f.name for f in msgspec.structs.fields(settings_type) if f.required and f.name not in values]
        if not missing:
            raise
        names = ", ".join(f"{_flag(name)} or {PREFIX}{name.upper()}" for name in missing)
        raise BadInputError("settings/missing", f"needs {names}", about=command) from error
    except ValueError as error:
        raise BadInputError("settings/value", str(error), about=command) from error


def describe(settings_type: type[msgspec.Struct], command: str) -> str:
    """The text of `--help`: each setting, what it means, its default and its variable."""
    lines = [f"usage: {command} [--config FILE] [--SETTING VALUE ...]", ""]
    story = (inspect.getdoc(settings_type) or "").partition("\n")[0]
    lines += [story, "", "Precedence: flags, environment variables, file (YAML or JSON).", ""]
    texts = documented(settings_type)
    hints = get_type_hints(settings_type)
    for field in msgspec.structs.fields(settings_type):
        default = "required" if field.required else f"default: {_shown(field.default)}"
        lines.append(f"  {_flag(field.name)} {_kind(hints[field.name])}    [{PREFIX}{field.name.upper()}]")
        text = " ".join([texts.get(field.name, ""), f"({default})"]).strip()
        lines += textwrap.wrap(text, width=96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read_flags(argv: Sequence[str], fields: Mapping[str, Any], command: str) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    rest = list(argv)
    while rest:
        given = rest.pop(0)
        flag, equals, value = given.partition("=")
        if flag in ("-h", "--help"):
            return {"help": (flag, True)}
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name.startswith("no_") and name not in fields and fields.get(name[3:]) is bool and not equals:
            found[name[3:]] = (flag, False)
        elif name not in fields and name != "config":
            close = difflib.get_close_matches(flag, [_flag(known) for known in fields], n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; see {command} --help"
            raise BadInputError("settings/unknown", f"is no setting of {command}{hint}", about=flag)
        elif equals:
            found[name] = (flag, value)
        elif fields.get(name) is bool:
            found[name] = (flag, True)
        elif rest:
            found[name] = (flag, rest.pop(0))
        else:
            raise BadInputError("settings/value", "needs a value", about=flag)
    return found


def _read_file(path: Path, fields: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    from shared.io.bounded_read import read_text
    from shared.io.yaml_documents import documents

    text = read_text(path, code="settings/file", most=_MOST_FILE_BYTES)
    found_documents = documents(text, code="settings/file", about=str(path))
    if len(found_documents) > 1:
        raise BadInputError("settings/file", "must be one document", about=str(path))
    content: Any = found_documents[0] if found_documents else None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInputError("settings/file", "must be a mapping of settings to values", about=str(path))
    found: dict[str, tuple[str, Any]] = {}
    for key, value in cast("dict[Any, Any]", content).items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), list(fields), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadInputError("settings/unknown", f"{key} is no setting{hint}", about=str(path))
        found[key] = (f"{path}: {key}", value)
    return found


def _convert(source: str, value: Any, wanted: Any) -> Any:
    """One value as its field's type; text from flags and variables is parsed, lists are separated by commas."""
    if isinstance(value, str):
        if get_origin(wanted) in (list, tuple):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif wanted is bool and value.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            value = value.lower() in ("true", "yes", "on", "1")
    try:
        return convert(wanted, value, strict=not isinstance(value, str | list))
    except UndecodableError as error:
        allowed = get_args(wanted) if get_origin(wanted) is Literal else ()
        reason = (
            f"must be one of {', '.join(map(str, allowed))}"
            if allowed
            else f"must be {_ARTICLE.get(wanted, 'a value that fits')}"
        )
        raise BadInputError("settings/value", f"{reason}, not {value!r}", about=source) from error


def _kind(wanted: Any) -> str:
    names = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: "true|false"}
    if get_origin(wanted) is Literal:
        return "|".join(map(str, get_args(wanted)))
    if get_origin(wanted) in (list, tuple):
        return "TEXT,TEXT…"
    return names.get(wanted, "VALUE")


def _shown(default: Any) -> str:
    if default is msgspec.NODEFAULT:
        return "empty"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return ",".join(map(str, cast("list[Any]", default))) or "empty"
    return str(default) if default != "" else "empty"


def documented(settings_type: type) -> dict[str, str]:
    """Return the docstring under each field, from the source: `--help` prints what a reader of the code sees."""
    found: dict[str, str] = {}
    for owner in reversed(settings_type.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        body = cast("ast.ClassDef", ast.parse(source).body[0]).body
        for field, text in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = " ".join(text.value.value.split())
    return found
