"""Settings of the xDS edge."""

from __future__ import annotations

from typing import Literal

from shared.names import XDS_EDGE, XDS_PORT
from shared.service.settings import CommonSettings


class EdgeSettings(CommonSettings, frozen=True, kw_only=True):
    """The xDS edge: serves snapshots to proxies by delta ADS over TLS."""

    host: str = "0.0.0.0"  # noqa: S104 (its pod's own network; every stream needs a token)
    """Address that proxies reach."""
    port: int = XDS_PORT
    """Port that proxies reach."""
    state_dir: str = ""
    """Directory of the last good state; empty: nothing is kept on disk."""
    key_dir: str = ""
    """Directory in memory (tmpfs) for the edge's own certificate and key, so that it can start with everything else
    down; empty: a start waits for the CA."""
    token_file: str = "/var/run/secrets/meshlog/token"  # noqa: S105 (a path)
    """The edge's own service-account token, for its own certificate."""
    service_account: str = XDS_EDGE
    """Account that the edge runs as."""
    workers: int = 1
    """Processes that share the port, one for each core that may be used."""
    reuse_port: bool = False
    """Whether other processes may listen on the same port (SO_REUSEPORT), as workers do."""
    confirm_within: float = 3.0
    """Seconds that a start waits for the log before it serves the last good snapshot from disk."""
    drain: float = 2.0
    """Seconds over which streams are handed to other edges at a stop."""
    new_streams: float = 1000.0
    """New streams a second that are taken at most, fewer under load; more are asked to come back."""
    new_streams_burst: float = 500.0
    """New streams that are taken at once after a quiet time."""
    write_timeout: float = 20.0
    """Seconds that a proxy may leave a response unread."""
    patience: float = 60.0
    """Seconds that a stream waits for its pod to be compiled."""
    max_connection_age: float = 1800.0
    """Seconds, ± 10 %, after which a connection is asked to move on; below the lifetime of the proxies' tokens."""
    connections: int = 12000
    """Connections in TLS, of one process; more are refused. One with a stream takes about 70 kB."""
    connections_per_address: int = 4096
    """Connections of one source address; raise it where many proxies share one, behind NAT."""
    waiting_connections: int = 4096
    """Connections that wait outside of TLS, because their client is silent or no place is free; an eighth of them may
    be of one address."""
    unproven_connections: int = 512
    """Connections in TLS that have not shown a token; each takes about 100 kB."""
    new_connections_per_address: float = 50.0
    """TLS handshakes a second that one source address may begin; raise it where many proxies share one."""
    new_connections_per_address_burst: float = 200.0
    """TLS handshakes that one source address may begin at once."""
    handshake_timeout: float = 5.0
    """Seconds that a client may take to begin a TLS handshake, and again to end it."""
    prove_within: float = 10.0
    """Seconds after the TLS handshake until a call of the connection must have shown a good token."""
    idle_timeout: float = 60.0
    """Seconds that a connection may stay without a call."""
    most_streams: int = 12000
    """Streams of one process; one more ends the oldest of the pod that has most of them."""
    streams_per_pod: int = 256
    """Streams of one pod, over all its connections; one more ends the oldest."""
    request_bytes: int = 8388608
    """Bytes of one request."""
    peer_address: Literal["off", "count", "refuse"] = "count"
    """What to do about a stream whose peer has another address than its token's pod: nothing, count and log it, or
    refuse it. Refuse where the network between proxies and edges keeps addresses: a stolen token is then of no use."""
    check_snapshots: bool = False
    """Whether each snapshot is checked for consistency, and what is wrong is logged and counted: for tests and while a
    fault is looked for; it reads every changed resource."""
    unread_bytes: int = 134217728
    """Bytes of requests of all clients that have arrived and wait to be whole or read; of one pod, four requests."""
