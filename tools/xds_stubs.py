"""Write type stubs of the xDS protobufs into `.stubs/`, so that pyright knows their fields.

`xds-protos` ships none. The descriptors that the modules register are enough: a FileDescriptorSet rebuilt from the
pool goes through protoc's `.pyi` generator. Takes about a second, and nothing if the stubs are up to date.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / ".stubs"
STAMP = STUBS / ".stamp"

MODULES = (
    "envoy.admin.v3.config_dump_shared_pb2",
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.common.mutation_rules.v3.mutation_rules_pb2",
    "envoy.config.cluster.v3.circuit_breaker_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.core.v3.address_pb2",
    "envoy.config.core.v3.base_pb2",
    "envoy.config.core.v3.config_source_pb2",
    "envoy.config.core.v3.protocol_pb2",
    "envoy.config.endpoint.v3.endpoint_components_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.api_listener_pb2",
    "envoy.config.listener.v3.listener_components_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.rbac.v3.rbac_pb2",
    "envoy.config.route.v3.route_components_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.bootstrap.internal_listener.v3.internal_listener_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2",
    "envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2",
    "envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.transport_sockets.tls.v3.common_pb2",
    "envoy.extensions.transport_sockets.tls.v3.secret_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.service.status.v3.csds_pb2",
    "envoy.type.matcher.v3.node_pb2",
    "envoy.type.v3.hash_policy_pb2",
    "envoy.type.matcher.v3.path_pb2",
    "envoy.type.matcher.v3.regex_pb2",
    "envoy.type.matcher.v3.string_pb2",
    "google.protobuf.descriptor_pb2",
)
"""What Meshlog's own code imports; their dependencies come along."""


def _stamp() -> str:
    versions = [importlib.metadata.version(name) for name in ("xds-protos", "protobuf", "grpcio-tools")]
    return hashlib.sha256(repr((versions, MODULES)).encode()).hexdigest()


def _closure() -> list[FileDescriptor]:
    """Every file that the modules need, dependencies first."""
    pool = Default()
    seen: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name not in seen:
            for dependency in file.dependencies:
                visit(dependency)
            seen[file.name] = file

    for module in MODULES:
        importlib.import_module(module)
        visit(pool.FindFileByName(module.removesuffix("_pb2").replace(".", "/") + ".proto"))
    return list(seen.values())


def write() -> bool:
    """Bring `.stubs/` up to date; return whether it was out of date."""
    stamp = _stamp()
    if STAMP.exists() and STAMP.read_text() == stamp:
        return False
    from grpc_tools import protoc

    files = _closure()
    described = FileDescriptorSet()
    for file in files:
        file.CopyToProto(described.file.add())
    names = [file.name for file in files]
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".stubs-") as scratch:
        source = Path(scratch) / "descriptors.binpb"
        source.write_bytes(described.SerializeToString(deterministic=True))
        out = Path(scratch) / "out"
        out.mkdir()
        code = protoc.main(["protoc", f"--descriptor_set_in={source}", f"--pyi_out={out}", *names])
        if code != 0:
            raise SystemExit(f"protoc could not write the stubs of the xDS protobufs (exit code {code})")
        (out / STAMP.name).write_text(stamp)
        shutil.rmtree(STUBS, ignore_errors=True)
        out.rename(STUBS)
    return True


if __name__ == "__main__":
    if write():
        print(f"wrote {STUBS.name}/", file=sys.stderr)
