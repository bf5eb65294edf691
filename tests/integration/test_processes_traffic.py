"""Figures and health with real processes: what is sent through Envoy is what the controller counts, to the request."""

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import threading
import time

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_start import running
from tests.integration.processes import Backend, until

LOOK_S = 2.0
"""Between looks of an agent at its data plane (``avinet.se.lookout``)."""


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names, and as many bytes as it says: ``/503/1000``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = [part for part in self.path.split("/") if part]
        status, size = (int(part) for part in parts) if len(parts) == 2 else (200, 2)
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(b"x" * size)

    def log_message(self, *args):
        pass


class Dying(http.server.ThreadingHTTPServer):
    """A server that takes its open connections with it, as a process does."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), Answering)
        self.open = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def get_request(self):
        found = super().get_request()
        self.open.append(found[0])
        return found

    def die(self):
        self.shutdown()
        self.server_close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def sent(site, count, path):
    """So many requests on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.service, timeout=5)
    try:
        for _ in range(count):
            connection.request("GET", path)
            connection.getresponse().read()
    finally:
        connection.close()


def stats(site, kind="virtualservice", name="web", **query):
    return site.client.get(f"/api/{kind}/{name}/stats", query, timeout_s=5)


CONFIGURATION = """\
kind: HealthMonitor
name: quick
type: HEALTH_MONITOR_HTTP
send_interval: 1
receive_timeout: 1
successful_checks: 1
failed_checks: 2
http_monitor: {}
---
kind: Pool
name: web
servers:
  - {ip: 127.0.0.1, port: %d}
  - {ip: 127.0.0.1, port: %d}
health_monitor_refs: [quick]
---
kind: VirtualService
name: web
vip: [{ip_address: 127.0.0.1}]
services: [{port: %d}]
pool_ref: web
"""
MONITOR_S = 2 * (1 + 1)
"""Two checks, each a second after the last and a second long at most."""


def test_figures_are_what_was_sent_and_a_server_that_dies_is_told_with_the_reason(site):
    site.start()
    agent = site.add_engine("se-1")
    first, second = (Dying(port) for port in site.ports.backends)
    made = site.apply(CONFIGURATION % (*site.ports.backends, site.ports.service))
    site.until_up("se-1", agent, version=made["version"])
    until(lambda: stats(site)["health"] == "UP", why=lambda: stats(site))
    before = stats(site)["totals"]
    for count, path in ((40, "/200/1000"), (20, "/404/10"), (10, "/503/0"), (5, "/302/0")):
        sent(site, count, path)

    def counted():
        found = stats(site)["totals"]
        return found if found["requests"] - before["requests"] >= 75 else None

    found = until(counted, limit_s=20, why=lambda: stats(site))
    grown = {name: count - before[name] for name, count in found.items()}
    assert [grown[f"responses_{n}xx"] for n in range(1, 6)] == [0, 40, 5, 20, 10], grown
    assert (grown["requests"], grown["connections_total"]) == (75, 4)
    assert 40_000 < grown["bytes_out"] < 60_000
    assert 75 * 40 < grown["bytes_in"] < 75 * 200

    # Latency comes with Envoy's next flush of its histograms, the minute's points add up to the same.
    until(lambda: stats(site)["latency_ms"]["p99"] is not None, limit_s=20)
    assert stats(site)["latency_ms"]["p50"] < 1_000
    whole = stats(site)
    assert sum(whole["series"]["responses_4xx"]) == 20
    fine = stats(site, since=300, step=5)
    assert sum(fine["series"]["responses_5xx"]) == 10
    # By pool and server, as Envoy sees its side.
    of_pool = until(lambda: (t := stats(site, "pool")["totals"])["requests"] >= 75 and t, limit_s=20)
    assert [of_pool[f"responses_{n}xx"] for n in (2, 4)] == [40, 20]
    servers = site.client.get("/api/pool/web/servers")["results"]
    assert sum(one["requests"] for one in servers) == of_pool["requests"]
    assert {one["state"] for one in servers} == {"UP"}

    second.die()
    gone_at = time.monotonic()
    event = site.until_event("SERVER_DOWN", str(site.ports.backends[1]), limit_s=MONITOR_S + 3 * LOOK_S + 5)
    took_s = time.monotonic() - gone_at
    assert took_s < MONITOR_S + 3 * LOOK_S, took_s
    row = site.client.get("/api/pool/web/servers")["results"][1]
    assert (row["state"], row["health"]) == ("DOWN", "DOWN")
    assert row["reason"], row
    assert row["reason"] in event["text"], event
    assert row["last_failure"]["until"] is None
    assert stats(site)["health"] == "UP", "the other server serves"
    first.die()
    event = site.until_event("VS_DOWN", "web", limit_s=MONITOR_S + 3 * LOOK_S + 5)
    assert "none of its 2 servers is up" in event["text"]
    site.backends.append(Backend("again", site.ports.backends[1]))
    until(lambda: stats(site)["health"] == "UP", limit_s=15)
    row = site.client.get("/api/pool/web/servers")["results"][1]
    assert row["last_failure"]["until"] is not None

    shown = site.cli("vs", "stats", "web").stdout
    assert "UP" in shown
    assert "20 4xx" in shown, shown
    shown = site.cli("pool", "servers", "web").stdout
    assert f"127.0.0.1:{site.ports.backends[0]}" in shown
    inventory = json.loads(site.cli("vs", "stats", "--json").stdout)
    assert inventory["results"][0]["config"]["name"] == "web"


def test_an_envoy_that_dies_and_a_controller_that_restarts_leave_the_figures_right(site):
    site.start()
    agent = site.add_engine("se-1")
    for port in site.ports.backends:
        Dying(port)
    made = site.apply(CONFIGURATION % (*site.ports.backends, site.ports.service))
    site.until_up("se-1", agent, version=made["version"])
    until(lambda: stats(site)["health"] == "UP", why=lambda: stats(site))

    def counted(requests):
        until(lambda: stats(site)["totals"]["requests"] == requests, limit_s=20, why=lambda: stats(site))

    sent(site, 30, "/200/10")
    counted(30)
    envoy = running(EnvoyFiles(site.engine_state("se-1") / "data-plane"))
    os.kill(envoy.pid, signal.SIGKILL)
    until(lambda: sent(site, 1, "/200/10") is None, limit_s=20)
    sent(site, 19, "/200/10")
    counted(50)
    # A controller that comes back knows what the data plane has counted, also meanwhile, and makes no peak of it.
    site.controller.kill()
    sent(site, 5, "/200/10")
    site.start()
    site.until_up("se-1", agent)
    counted(25)
    assert sum(stats(site)["series"]["requests"]) == 0
    sent(site, 7, "/200/10")
    counted(32)
    until(lambda: sum(stats(site)["series"]["requests"]) == 7, limit_s=5)
