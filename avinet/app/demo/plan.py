"""What a demo consists of: folders, ports, settings files, and the configuration it applies."""

from pathlib import Path

import attrs

from avinet.app.demo.namespaces import Namespaces, inside
from avinet.app.demo.ports import ControllerPorts, DemoPorts

SERVICE = "demo-web"
LOOPBACK = "127.0.0.1"
BACKENDS = ("backend-1", "backend-2")
REPORT_INTERVAL_S = 2.0
"""Far below the product's 60 s: a demo should show what it does."""
DRAIN_S = 5
"""Likewise: nobody's requests in a demo last a minute."""


@attrs.frozen
class ControllerPlan:
    """One controller of a demo."""

    name: str
    folder: Path
    """The demo's."""
    ports: ControllerPorts
    address: str = LOOPBACK
    namespace: str = ""
    """The network namespace that it runs in; empty: this machine's own."""
    lone: bool = True
    """Whether it is the only one, and so keeps its state without an engine."""

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / self.name

    @property
    def settings(self) -> Path:
        """Its settings file."""
        return self.folder / f"{self.name}.toml"

    @property
    def bundle(self) -> Path:
        """With which it joins the first one."""
        return self.folder / f"{self.name}.bundle"

    def inside(self, *arguments: str) -> tuple[str, ...]:
        """A command that runs where it runs."""
        return (*inside(self.namespace), *arguments)

    def settings_text(self) -> str:
        """TOML; on an address that only this machine reaches."""
        ports = self.ports
        store = (
            ""
            if self.lone
            else f"""
[store]
engine = "etcd"
client_port = {ports.client}
peer_port = {ports.peer}
"""
        )
        return f"""\
[controller]
name = "{self.name}"
addresses = ["{self.address}"]

[ssh]
bind = "{self.address}"
port = {ports.ssh}
reverse_port = {ports.reverse}

[registration]
bind = "{self.address}"
port = {ports.registration}

[api]
bind = "{self.address}"
port = {ports.api}
{store}
[control]
report_interval_s = {REPORT_INTERVAL_S}
"""


def controller_plans(
    folder: Path, ports: DemoPorts, namespaces: Namespaces | None = None, name: str = "controller"
) -> tuple[ControllerPlan, ...]:
    """One for each controller that there are ports for, numbered from 1."""
    lone = len(ports.controllers) == 1
    return tuple(
        ControllerPlan(
            f"{name}-{number}",
            folder,
            own,
            LOOPBACK if namespaces is None else namespaces.address(number),
            "" if namespaces is None else namespaces.name(number),
            lone,
        )
        for number, own in enumerate(ports.controllers, 1)
    )


@attrs.frozen
class DemoPlan:
    """``folder`` holds everything; each process has a folder of its own in it."""

    folder: Path
    controllers: tuple[ControllerPlan, ...]
    ports: DemoPorts
    engines: tuple[str, ...]

    @property
    def first(self) -> ControllerPlan:
        """The controller that is there first, and has the root key."""
        return self.controllers[0]

    @property
    def facts(self) -> Path:
        """What programs read about the running demo."""
        return self.folder / "demo.json"

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

    def settings(self, role: str = "se") -> Path:
        """A settings file; the SEs share theirs."""
        return self.folder / f"{role}.toml"

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
