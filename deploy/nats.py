"""The configuration of nats-server, rendered: one server for the embedded mesh, a cluster of them for Kubernetes.

`sync_interval: always`: what was acknowledged is on the disk. Passwords are bcrypt hashes here, or references to the
environment of the server (`$NAME`), never clear text.

**Accounts.** A NATS server checks a client's right to publish and to subscribe. It checks neither the reply subject of
a request nor the delivery subject of a consumer, and writes its own answers there. In one account with the streams, a
user without any right to write makes the server write into every stream. So each stream has an account of its own,
without a login, and each user one without a stream. A user's account imports the calls of its row in the
table of the log (docs/architecture.md) and nothing else. The server answers an import in the account of the
caller, and a consumer delivers within the account of its stream, where nothing but that stream can be named (which the
server refuses as a cycle) and the inboxes of users.

JetStream's API of another account cannot be imported under its own name, because every account has one. So it is
`$JS.<stream>.API` for users (`nats --js-api-prefix`), and `nats_accounts` switches services to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from shared.eventlog.jetstream.nats_connection import api_prefix
from shared.eventlog.stream_spec import READ_ONLY_USERS, StreamSpec
from shared.records.pins import SUBJECT_END
from shared.records.subjects import Streams
from shared.streams.specs import specs

PEOPLE = ("operator", "reader")
"""Users that are no service: one may pin the mesh to a past version, one may read everything."""
ROUTE_PORT = 6222
"""Port of the connections between the servers of a cluster."""


class AllowedCall(msgspec.Struct, frozen=True, order=True):
    """A subject of a stream's account that a user may publish to."""

    stream: str
    subject: str
    answers: bool = False
    """Whether there is more than one answer."""

    @property
    def local(self) -> str:
        """The same subject as the user's account names it."""
        return self.subject.replace(api_prefix(""), api_prefix(self.stream), 1)


class NatsUser(msgspec.Struct, frozen=True):
    """One service's access to the log."""

    name: str
    password: str
    """A bcrypt hash, or `$NAME`: the server's environment variable of that name."""
    calls: tuple[AllowedCall, ...] = ()
    reads: tuple[str, ...] = ()
    """Streams whose consumers may deliver to the user's inbox."""

    @property
    def inbox(self) -> str:
        """The subjects on which a user receives messages."""
        return f"_INBOX_{self.name}.>"


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
    """Empty: each client that reaches the port may do everything."""
    tls: str = ""
    """Directory of `tls.crt`, `tls.key` and `ca.crt`; empty: connections in the clear."""
    routes: tuple[str, ...] = ()
    """Addresses of the other servers, `nats-route://host:6222`; empty for a single server."""
    monitoring: int = 0
    """Port of `/healthz`; 0: none."""
    monitoring_host: str = ""
    """Address of that port; empty: that of `host`."""


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
        lines.append(f"http: {json.dumps(f'{config.monitoring_host or config.host}:{config.monitoring}')}")
    if config.tls:
        lines += ["tls {", *_tls(config.tls), "}"]
    if config.routes:
        lines += ["cluster {", "  name: meshlog", f"  listen: {json.dumps(f'{config.host}:{ROUTE_PORT}')}"]
        if config.tls:
            # A server of the cluster has to present a certificate of the cluster.
            lines += ["  tls {", *(f"  {line}" for line in _tls(config.tls)), "    verify: true", "  }"]
        lines += [f"  routes: {json.dumps(list(config.routes))}", "}"]
    if config.users:
        lines += ["accounts {", *_accounts(config.users), "}"]
    return "\n".join(lines) + "\n"


def _tls(directory: str) -> list[str]:
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    return [f"  {key}: {json.dumps(f'{directory}/{name}')}" for key, name in files.items()]


def _accounts(users: Iterable[NatsUser]) -> list[str]:
    users = tuple(users)
    streams = sorted({call.stream for user in users for call in user.calls})
    return [
        *(line for stream in streams for line in _home(stream, users)),
        *(line for user in users for line in _user(user)),
    ]


def _home(stream: str, users: Iterable[NatsUser]) -> list[str]:
    """The account of one stream: the users that may call it, and the inboxes that it may deliver to."""
    users = tuple(users)
    callers: dict[AllowedCall, list[str]] = {}
    for user in users:
        for call in user.calls:
            if call.stream == stream:
                callers.setdefault(call, []).append(user.name)
    exports = [
        f"service: {json.dumps(call.subject)}, accounts: {json.dumps(names)}{', response_type: Stream' * call.answers}"
        for call, names in sorted(callers.items())
    ]
    exports += [
        f"stream: {json.dumps(user.inbox)}, accounts: {json.dumps([user.name])}"
        for user in users
        if stream in user.reads
    ]
    return [f"  {stream} {{", "    jetstream: enabled", "    exports: [", *_listed(exports), "    ]", "  }"]


def _user(user: NatsUser) -> list[str]:
    """The account of one user, without a stream."""
    if not user.password.startswith("$"):
        raise ValueError(f"the password of {user.name} is neither a bcrypt hash nor a reference to the environment")
    shown = json.dumps(user.password) if user.password.startswith("$2") else user.password
    imports = [
        f"service: {{ account: {call.stream}, subject: {json.dumps(call.subject)} }}"
        + (f", to: {json.dumps(call.local)}" if call.local != call.subject else "")
        for call in sorted(user.calls)
    ]
    imports += [f"stream: {{ account: {stream}, subject: {json.dumps(user.inbox)} }}" for stream in sorted(user.reads)]
    publish = json.dumps(sorted(call.local for call in user.calls))
    permissions = f"{{ publish: {publish}, subscribe: {json.dumps([user.inbox])} }}"
    return [
        f"  {json.dumps(user.name)} {{",
        f"    users: [ {{ user: {json.dumps(user.name)}, password: {shown}, permissions: {permissions} }} ]",
        "    imports: [",
        *_listed(imports),
        "    ]",
        "  }",
    ]


def _listed(entries: Iterable[str]) -> list[str]:
    return [f"      {{ {entry} }}" for entry in entries]


def service_users(streams: Streams, passwords: dict[str, str]) -> tuple[NatsUser, ...]:
    """The users of the control plane, each with the rights of its row, and `PEOPLE`; `passwords` by name.

    Each user may ask for the state of every stream. Services that other pods cannot reach create missing streams; the
    owner of a stream may change what an older build made.
    """
    every = specs(streams)
    pin = f"{streams.prefix}.events.*{SUBJECT_END}"
    everything = (
        streams.events,
        streams.snapshots,
        streams.keyframes,
        streams.certs,
        streams.status,
        streams.pins,
        streams.leases,
    )
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
        # History is computed from these, and leases show the leader.
        "operator": everything,
        "reader": everything,
    }
    prefix = streams.prefix
    writes: dict[str, dict[str, tuple[str, ...]]] = {
        "ingestor": {streams.events: (streams.all_events,), streams.leases: (f"{prefix}.leases.>",)},
        "compiler": {
            streams.snapshots: (streams.snapshot_subject,),
            streams.keyframes: (streams.keyframe_subject,),
            streams.leases: (f"{prefix}.leases.>",),
        },
        "xds-edge": {streams.csrs: (f"{prefix}.csrs.>",), streams.status: (streams.all_status,)},
        "ca": {streams.certs: (f"{prefix}.certs.>",)},
        "injector": {streams.csrs: (f"{prefix}.csrs.>",)},
        # A rollback is a person's event; everything else of the log is other people's word.
        "operator": {streams.events: (pin,), streams.pins: (streams.all_pins,)},
        "reader": {},
    }
    return tuple(
        NatsUser(
            name=name,
            password=passwords[name],
            calls=(
                *(AllowedCall(stream, subject) for stream, subjects in writes[name].items() for subject in subjects),
                *(call for spec in every.values() for call in _calls(name, spec, reads=spec.name in reads[name])),
            ),
            reads=reads[name],
        )
        for name in reads
        if name in passwords
    )


def _calls(user: str, spec: StreamSpec, *, reads: bool) -> list[AllowedCall]:
    """What a user may ask of JetStream about one stream."""
    stream, verbs = spec.name, [f"STREAM.INFO.{spec.name}"]
    if user not in READ_ONLY_USERS:
        verbs.append(f"STREAM.CREATE.{stream}")
    if user == spec.owner:
        verbs.append(f"STREAM.UPDATE.{stream}")
    if user == spec.owner and spec.trimmed:
        verbs.append(f"STREAM.PURGE.{stream}")
    if reads:
        verbs += [f"CONSUMER.CREATE.{stream}.>", f"STREAM.MSG.GET.{stream}"]
    takes = user == spec.owner and spec.retention == "work_queue"
    if takes:
        verbs.append(f"CONSUMER.CREATE.{stream}.>")
    calls = [AllowedCall(stream, f"{api_prefix('')}.{verb}") for verb in verbs]
    if takes:
        calls += [
            AllowedCall(stream, f"{api_prefix('')}.CONSUMER.MSG.NEXT.{stream}.>", answers=True),
            AllowedCall(stream, f"$JS.ACK.{stream}.>"),
        ]
    return [*calls, *([AllowedCall(stream, f"$JS.FC.{stream}.>")] if reads else [])]
