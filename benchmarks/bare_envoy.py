"""Envoys that nobody manages: the peer of a service engine's, and servers for both to ask.

As little configuration as does the job, on one worker: what a service engine's Envoy has beside it is its cost.
"""

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from avinet.dataplane.envoy_binary import find_envoy
from benchmarks.processes import bound_to_us, end, until

START_LIMIT_S = 30.0
ANSWER = "hello from a bare Envoy, which says no more than this to whoever asks it\n"
MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


@attrs.define(eq=False)
class BareEnvoy:
    """One process; ``stop`` ends it."""

    folder: Path
    name: str
    configuration: dict[str, Any] = attrs.field(repr=False)
    ports: Sequence[int]
    """Which answer when it is ready."""
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """And wait until it listens."""
        file = self.folder / f"{self.name}.json"
        file.write_text(json.dumps(self.configuration))
        command = (
            *(os.fspath(find_envoy().path), "-c", os.fspath(file), "--concurrency", "1"),
            *("--disable-hot-restart", "-l", "error"),
        )
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_us(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(lambda: all(map(listens, self.ports)), START_LIMIT_S, f"{self.name} listens")

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        if self._process is None:
            raise AssertionError("not started")
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            end(self._process)
            self._process = None


def listens(port: int) -> bool:
    """Whether somebody does, on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def servers(folder: Path, ports: Sequence[int]) -> BareEnvoy:
    """What pools are made of: each port answers at once."""
    direct = {"status": 200, "body": {"inline_string": ANSWER}}
    routes = [{"match": {"prefix": "/"}, "direct_response": direct}]
    listeners = [_listener(port, routes) for port in ports]
    return BareEnvoy(folder, "servers", {"static_resources": {"listeners": listeners}}, ports)


def proxy(folder: Path, port: int, server: int) -> BareEnvoy:
    """What a virtual service with a pool of one server does."""
    endpoint = {"endpoint": {"address": _address(server)}}
    cluster = {
        "name": "pool",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "pool", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "pool"}}]
    resources = {"listeners": [_listener(port, routes)], "clusters": [cluster]}
    return BareEnvoy(folder, "bare", {"static_resources": resources}, [port])


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int, routes: list[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": f"port-{port}", "address": _address(port), "filter_chains": [chain]}
