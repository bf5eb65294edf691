"""What a demo consists of: folders, ports, settings files, and the configuration it applies."""

from pathlib import Path

import attrs

from avinet.app.demo.ports import DemoPorts

SERVICE = "demo-web"
BACKENDS = ("backend-1", "backend-2")
REPORT_INTERVAL_S = 2.0
"""Far below the product's 60 s: a demo should show what it does."""
DRAIN_S = 5
"""Likewise: nobody's requests in a demo last a minute."""


@attrs.frozen
class DemoPlan:
    """``folder`` holds everything; each process has a folder of its own in it."""

    folder: Path
    ports: DemoPorts
    engines: tuple[str, ...]
    controller: str = "controller-1"

    @property
    def facts(self) -> Path:
        """What programs read about the running demo."""
        return self.folder / "demo.json"

    @property
    def controller_state(self) -> Path:
        """The controller's state folder."""
        return self.folder / self.controller

    @property
    def image(self) -> Path:
        """The SE image."""
        return self.folder / "image.tar"

    @property
    def url(self) -> str:
        """Where the virtual service answers."""
        return f"http://127.0.0.1:{self.ports.service}/"

    def engine_state(self, name: str) -> Path:
        """An SE's state folder."""
        return self.folder / name

    def meta_info(self, name: str) -> Path:
        """What an SE is told at its creation."""
        return self.folder / f"{name}.meta-info.json"

    def settings(self, role: str) -> Path:
        """A role's settings file."""
        return self.folder / f"{role}.toml"

    def controller_settings(self) -> str:
        """TOML; everything listens on loopback only."""
        ports = self.ports
        return f"""\
[controller]
name = "{self.controller}"
addresses = ["127.0.0.1"]

[ssh]
bind = "127.0.0.1"
port = {ports.ssh}
reverse_port = {ports.reverse}

[registration]
bind = "127.0.0.1"
port = {ports.registration}

[api]
bind = "127.0.0.1"
port = {ports.api}

[control]
report_interval_s = {REPORT_INTERVAL_S}
"""

    def engine_settings(self) -> str:
        """TOML; one worker an Envoy is plenty here."""
        return f"[data_plane]\nconcurrency = 1\ndrain_s = {DRAIN_S}\n"

    def configuration(self) -> str:
        """One HTTP virtual service over the two servers, with a health check quick enough to watch."""
        servers = "".join(f"- {{ip: 127.0.0.1, port: {port}}}\n" for port in self.ports.backends)
        return f"""\
kind: HealthMonitor
name: demo-health
type: HEALTH_MONITOR_HTTP
send_interval: 2
receive_timeout: 1
http_monitor: {{http_request: GET /health HTTP/1.1, http_response_code: [HTTP_2XX]}}
---
kind: Pool
name: demo-pool
servers:
{servers}health_monitor_refs: [demo-health]
---
kind: VirtualService
name: {SERVICE}
vip: [{{ip_address: 127.0.0.1}}]
services: [{{port: {self.ports.service}}}]
pool_ref: demo-pool
"""
