"""A real Envoy that follows an edge as a sidecar does, and the state that its admin port reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp

from tests.programs import envoy_binary
from tests.waiting import eventually


def bootstrap(directory: Path, *, port: int, node: str, edge_identity: str, inline_token: str = "") -> dict[str, Any]:
    """Delta ADS to the edge with the token from its file, as `reference` bootstraps do.

    `inline_token`: in place of the file. Each Envoy that watches files takes two of the 128 inotify instances that
    Linux gives a user by default (fs.inotify.max_user_instances), and aborts if there are none left.
    """
    source: dict[str, Any] = {"name": "token"}
    if not inline_token:
        source["sds_config"] = {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(directory / "token.json")},
        }
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "meshlog-xds-edge.meshlog-system.svc",
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(directory / "roots.pem")},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": edge_identity}}],
            }
        },
    }
    injector = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        "credential": {
            "name": "envoy.http.injected_credentials.generic",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                "credential": source,
                "header": "authorization",
                "header_value_prefix": "Bearer ",
            },
        },
    }
    http = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {
                "name": "envoy.filters.http.upstream_codec",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
                },
            },
        ],
    }
    edge = {
        "name": "edge",
        "type": "STATIC",
        "connect_timeout": "1s",
        "transport_socket": {"name": "tls", "typed_config": tls},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http},
        "load_assignment": {
            "cluster_name": "edge",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                    ]
                }
            ],
        },
    }
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    retry = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    return {
        "node": {"id": node, "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "edge", "retry_policy": retry}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [edge],
            "secrets": [{"name": "token", "generic_secret": {"secret": {"inline_string": inline_token}}}]
            if inline_token
            else [],
        },
    }


class RealEnvoy:
    """A running Envoy."""

    def __init__(self, process: asyncio.subprocess.Process, admin: str, session: aiohttp.ClientSession) -> None:
        self.process = process
        self._admin = admin
        self._session = session

    async def stats(self) -> dict[str, int]:
        """Its counters and gauges."""
        async with self._session.get(f"{self._admin}/stats?format=json") as answer:
            found = (await answer.json(content_type=None))["stats"]
        return {one["name"]: one["value"] for one in found if isinstance(one.get("value"), int)}

    async def listener_port(self, name: str) -> int:
        """The port that a listener got; fails with `LookupError` while it is not there."""
        async with self._session.get(f"{self._admin}/listeners?format=json") as answer:
            found = await answer.json(content_type=None)
        for status in found.get("listener_statuses", []):
            if status["name"] == name:
                return status["local_address"]["socket_address"]["port_value"]
        raise LookupError(name)

    async def config(self) -> str:
        """Its whole configuration, as text."""
        async with self._session.get(f"{self._admin}/config_dump?include_eds") as answer:
            return await answer.text()

    async def get(self, port: int) -> tuple[int, str]:
        """A request through one of its listeners."""
        async with self._session.get(f"http://127.0.0.1:{port}/") as answer:
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def running(
    *, port: int, token: str, roots: str, node: str, edge_identity: str, watches: bool = True
) -> AsyncGenerator[RealEnvoy]:
    """Start an Envoy; it ends with the block. `watches`: whether its token is a file that it watches."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "roots.pem").write_text(roots)
        (directory / "token").write_text(token)
        secret = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "token",
            "generic_secret": {"secret": {"filename": str(directory / "token")}},
        }
        (directory / "token.json").write_text(json.dumps({"resources": [secret]}))
        config = bootstrap(
            directory, port=port, node=node, edge_identity=edge_identity, inline_token="" if watches else token
        )
        log = (directory / "log").open("wb")
        process = await asyncio.create_subprocess_exec(
            envoy_binary(),
            "--config-yaml",
            json.dumps(config),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--admin-address-path",
            str(directory / "admin"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
        log.close()
        try:
            admin = await eventually((directory / "admin").read_text, within=20, what="Envoy starts")
            async with aiohttp.ClientSession() as session:
                yield RealEnvoy(process, f"http://{admin}", session)
        except BaseException:
            sys.stderr.write((directory / "log").read_text()[-4000:])
            raise
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
