"""The configuration of nats-server, rendered: one server for the embedded mesh, a cluster of them for Kubernetes.

`sync_interval: always`: what was acknowledged is on the disk. Users, where they are wanted, may publish and
subscribe only to the subjects of their row in the table of the log (docs/architecture.md); passwords are bcrypt
hashes here, or references to the environment of the server (`$NAME`), never clear text.
"""

from __future__ import annotations

import json

import msgspec

from shared.pins import PIN_KIND, PIN_NAME
from shared.subjects import EMPTY_TOKEN, Streams

PEOPLE = ("operator", "reader")
"""Users that are no service: who may pin the mesh to a past version, and who may look at everything."""
ROUTE_PORT = 6222
"""Port on which servers of one cluster talk to each other."""


class NatsUser(msgspec.Struct, frozen=True):
    """One service's access to the log."""

    name: str
    password: str
    """A bcrypt hash, or `$NAME`: the server's environment variable of that name."""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


class NatsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between servers."""

    port: int
    store: str
    """Directory of the data; made if it is missing."""
    host: str = "127.0.0.1"
    name: str = "meshlog-nats"
    """Unique in its cluster; `$NAME` is a variable of the server's environment."""
    sync: str = "always"
    """When writes reach the disk: `always`, or an interval such as `2m`, which a crash can lose."""
    max_disk: str = "4GB"
    max_memory: str = "64MB"
    users: tuple[NatsUser, ...] = ()
    """None: everybody who reaches the port may do everything."""
    tls: str = ""
    """Directory of `tls.crt`, `tls.key` and `ca.crt`; empty: connections in the clear."""
    routes: tuple[str, ...] = ()
    """Where the other servers are, `nats-route://host:6222`; none: it is alone."""
    monitoring: int = 0
    """Port of `/healthz`; 0: none."""


def render(config: NatsConfig) -> str:
    """The configuration file."""
    lines = [
        f"server_name: {config.name if config.name.startswith('$') else json.dumps(config.name)}",
        f"listen: {json.dumps(f'{config.host}:{config.port}')}",
        "max_payload: 1MB",
        "write_deadline: 10s",
        "jetstream {",
        f"  store_dir: {json.dumps(config.store)}",
        f"  sync_interval: {config.sync}",
        f"  max_file_store: {config.max_disk}",
        f"  max_memory_store: {config.max_memory}",
        "}",
    ]
    if config.monitoring:
        lines.append(f"http: {json.dumps(f'{config.host}:{config.monitoring}')}")
    if config.tls:
        lines += ["tls {", *_tls(config.tls), "}"]
    if config.routes:
        lines += ["cluster {", "  name: meshlog", f"  listen: {json.dumps(f'{config.host}:{ROUTE_PORT}')}"]
        if config.tls:
            # Whoever wants to be one of the servers shows a certificate of theirs.
            lines += ["  tls {", *(f"  {line}" for line in _tls(config.tls)), "    verify: true", "  }"]
        lines += [f"  routes: {json.dumps(list(config.routes))}", "}"]
    if config.users:
        lines += ["authorization {", "  users: [", *(_user(user) for user in config.users), "  ]", "}"]
    return "\n".join(lines) + "\n"


def _tls(directory: str) -> list[str]:
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    return [f"  {key}: {json.dumps(f'{directory}/{name}')}" for key, name in files.items()]


def _user(user: NatsUser) -> str:
    if not user.password.startswith("$"):
        raise ValueError(f"the password of {user.name} is neither a bcrypt hash nor a reference to the environment")
    shown = json.dumps(user.password) if user.password.startswith("$2") else user.password
    publish, subscribe = json.dumps(list(user.publish)), json.dumps(list(user.subscribe))
    permissions = f"publish: {publish}, subscribe: {subscribe}"
    return f"    {{ user: {json.dumps(user.name)}, password: {shown}, permissions: {{ {permissions} }} }}"


def service_users(streams: Streams, passwords: dict[str, str]) -> tuple[NatsUser, ...]:
    """The users of the control plane, each with the rights of its row, and `PEOPLE`; `passwords` by name.

    Every service may create the streams that it uses, ask for their state, and make consumers of those that it reads.
    """
    reads = {
        "ingestor": (
            streams.events,
            streams.snapshots,
            streams.keyframes,
            streams.status,
            streams.leases,
            streams.pins,
        ),
        "compiler": (streams.events, streams.snapshots, streams.keyframes, streams.leases),
        "xds-edge": (streams.events, streams.snapshots, streams.keyframes, streams.certs, streams.status),
        "ca": (streams.events, streams.certs, streams.status),
        "injector": (streams.events, streams.certs),
        "operator": _everything(streams),
        "reader": _everything(streams),
    }
    prefix = streams.prefix
    writes = {
        "ingestor": (streams.all_events, f"{prefix}.leases.>"),
        "compiler": (streams.snapshot_subject, streams.keyframe_subject, f"{prefix}.leases.>"),
        "xds-edge": (f"{prefix}.csrs.>", streams.all_status),
        "ca": (f"{prefix}.certs.>",),
        "injector": (f"{prefix}.csrs.>",),
        # A rollback is a person's event; everything else of the log is other people's word.
        "operator": (f"{prefix}.events.*.{PIN_KIND}.{EMPTY_TOKEN}.{PIN_NAME}", streams.all_pins),
        "reader": (),
    }
    return tuple(
        NatsUser(
            name=service,
            password=passwords[service],
            publish=(*writes[service], *_api(streams, service, reads[service]), "$JS.FC.>"),
            subscribe=(f"_INBOX_{service}.>",),
        )
        for service in reads
        if service in passwords
    )


def _everything(streams: Streams) -> tuple[str, ...]:
    """What history is told from, and who leads."""
    return (
        streams.events,
        streams.snapshots,
        streams.keyframes,
        streams.certs,
        streams.status,
        streams.pins,
        streams.leases,
    )


def _api(streams: Streams, service: str, reads: tuple[str, ...]) -> tuple[str, ...]:
    # People look at what is there; services make what is missing.
    verbs = ("INFO",) if service in PEOPLE else ("CREATE", "INFO")
    everything = (*_everything(streams), streams.csrs)
    subjects = [f"$JS.API.STREAM.{verb}.{stream}" for stream in everything for verb in verbs]
    for stream in reads:
        subjects += [f"$JS.API.CONSUMER.CREATE.{stream}.>", f"$JS.API.STREAM.MSG.GET.{stream}"]
    trimmed = {"ingestor": (streams.events,), "compiler": (streams.snapshots, streams.keyframes)}
    subjects += [f"$JS.API.STREAM.PURGE.{stream}" for stream in trimmed.get(service, ())]
    if service == "ca":
        queue = streams.csrs
        subjects += [
            f"$JS.API.CONSUMER.CREATE.{queue}.>",
            f"$JS.API.CONSUMER.MSG.NEXT.{queue}.>",
            f"$JS.ACK.{queue}.>",
        ]
    return tuple(subjects)
