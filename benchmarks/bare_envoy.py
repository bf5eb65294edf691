"""Envoys that nobody manages: the peer of a service engine's, and servers for both to ask.

As little configuration as does the job, on one worker: what a service engine's Envoy has beside it is its cost.  The
peer logs its requests too, whoever runs an Envoy in earnest does: one file, of JSON lines with the same fields as a
service engine's.  That a service engine has two files, filters that choose one, and an agent that takes them away, is
part of its cost.
"""

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from avinet.dataplane.envoy_access_log import access_logs
from avinet.dataplane.envoy_binary import find_envoy
from avinet.dataplane.envoy_cluster import METADATA_KEY, NAME_KEY
from avinet.dataplane.envoy_files import FLUSH_INTERVAL_MS
from avinet.dataplane.interface import LogFiles
from avinet.model.config import VirtualService
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
            *("--file-flush-interval-msec", str(FLUSH_INTERVAL_MS)),
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

    @property
    def requests_log(self) -> Path:
        """Where it logs requests, if it does."""
        return _requests_log(self.folder, self.name)

    def forget_requests(self) -> None:
        """Empty its log of requests, which grows by 10 MB a second; it goes on at the start."""
        if self.requests_log.exists():
            os.truncate(self.requests_log, 0)

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
    """What a virtual service with a pool of one server does, with its requests logged."""
    endpoint = {"endpoint": {"address": _address(server)}}
    cluster = {
        "name": "pool",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "pool", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "metadata": {"filter_metadata": {METADATA_KEY: {NAME_KEY: "pool"}}},
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "pool"}}]
    log = _access_log(_requests_log(folder, "bare"), port)
    resources = {"listeners": [_listener(port, routes, log)], "clusters": [cluster]}
    return BareEnvoy(folder, "bare", {"static_resources": resources}, [port])


def _requests_log(folder: Path, name: str) -> Path:
    return folder / f"{name}-requests.ndjson"


def _access_log(file: Path, port: int) -> dict[str, Any]:
    """One of a service engine's loggers as it would be without a choice between two files."""
    service = VirtualService(
        uuid=f"virtualservice-{uuid.uuid4()}", name="bare", vip=(), services=(), pool_ref="", se_group_ref=""
    )
    (logger, *_) = access_logs(service, f"127.0.0.1:{port}", LogFiles(file.parent), http=True)
    return {"name": logger["name"], "typed_config": {**logger["typed_config"], "path": os.fspath(file)}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int, routes: list[dict[str, Any]], *logs: dict[str, Any]) -> dict[str, Any]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "access_log": list(logs),
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": f"port-{port}", "address": _address(port), "filter_chains": [chain]}
