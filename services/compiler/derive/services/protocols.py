"""What a port of a Service speaks: HTTP, which sidecars read, or bytes, which they pass on.

To take bytes for HTTP is the worse mistake: a server that speaks first waits for ever for a client whose sidecar waits
for a request. So the names of protocols that are not HTTP, and the ports that only these use, count as well as the
prefixes that Open Service Mesh users know.
"""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.ir import Protocol
from shared.projected_objects import ServicePort

_HTTP = frozenset({"http", "http2", "h2c", "grpc", "grpc-web", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"})
_HTTP_NAMES = ("http", "http2", "grpc", "grpc-web", "h2c", "ws")
_TCP_NAMES = ("tcp-server-first", "tcp", "https", "tls", "wss", "grpcs")
_SERVICES = (
    *("amqp", "amqps", "cassandra", "cql", "ftp", "imap", "imaps", "kafka", "ldap", "ldaps", "memcache", "memcached"),
    *("mongo", "mongodb", "mqtt", "mssql", "mysql", "mysqlx", "nats", "pgsql", "pop3", "pop3s", "postgres"),
    *("postgresql", "redis", "rediss", "smb", "smtp", "smtps", "ssh", "submission", "zookeeper"),
)
"""Protocols that people call a port by, and that are not HTTP."""
_NUMBERS = frozenset(
    {
        *(21, 22, 25, 110, 143, 389, 465, 587, 636, 993, 995),
        *(1433, 1521, 2181, 3306, 5432, 5671, 5672, 6379, 9042, 11211, 27017),
    }
)
"""FTP, SSH, mail, LDAP; SQL Server, Oracle, ZooKeeper, MySQL, PostgreSQL, AMQP, Redis, Cassandra, memcached and
MongoDB."""


class PortProtocol(NamedTuple):
    """What a port speaks."""

    protocol: Protocol
    said: bool
    """False if no field of the port decides: then it is HTTP, the most frequent."""


def spoken(port: ServicePort) -> PortProtocol:
    """By `appProtocol`, else by the prefix of the port's name, else by its number, else HTTP.

    An unknown `appProtocol` means opaque TCP: a user who wrote `mysql` did not mean HTTP.
    """
    if port.app_protocol:
        return PortProtocol("http" if port.app_protocol.lower() in _HTTP else "tcp", said=True)
    name = port.name.lower()
    if _begins(name, _HTTP_NAMES):
        return PortProtocol("http", said=True)
    if _begins(name, _TCP_NAMES) or _begins(name, _SERVICES) or port.port in _NUMBERS:
        return PortProtocol("tcp", said=True)
    return PortProtocol("http", said=False)


def _begins(name: str, words: tuple[str, ...]) -> bool:
    return any(name == word or name.startswith(f"{word}-") for word in words)


def protocol_of(port: ServicePort) -> Protocol:
    """How a proxy treats a port."""
    return spoken(port).protocol
