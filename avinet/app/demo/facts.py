"""``demo.json``: what programs outside read about the running demo, replaced by rename whenever it changes."""

from pathlib import Path

import attrs
import msgspec

from avinet.app.demo.plan import SERVICE
from avinet.app.demo.stage import Stage
from avinet.se.paths import SePaths
from avinet.trust.files import write_private
from avinet.trust.node import ADMIN_USER, ControllerPaths, read_cluster


@attrs.define
class Facts:
    """Writes the file when its content is new."""

    stage: Stage
    _written: bytes = attrs.field(default=b"", init=False, repr=False)

    def write(self, rows: list[dict[str, object]]) -> None:
        """``rows`` are ``se list``'s; blocks for an fsync when something changed."""
        content = msgspec.json.format(msgspec.json.encode(self._content(rows)), indent=2)
        if content != self._written:
            write_private(self.stage.plan.facts, content)
            self._written = content

    def _content(self, rows: list[dict[str, object]]) -> dict[str, object]:
        plan = self.stage.plan
        paths = ControllerPaths(plan.first.state)
        cluster, _ = read_cluster(plan.first.state)
        return {
            "folder": str(plan.folder),
            "cluster_uuid": cluster,
            "root_ca": str(paths.root_pem),
            "id_se": str(paths.id_se),
            "image": str(plan.image),
            "admin_user": ADMIN_USER,
            "admin_password_file": str(paths.admin_password),
            "controllers": [
                {
                    "name": one.name,
                    "ssh": f"{one.address}:{one.ports.ssh}",
                    "registration": f"{one.address}:{one.ports.registration}",
                    "api": f"https://{one.address}:{one.ports.api}",
                    "state": str(one.state),
                    "namespace": one.namespace,
                    "id_se": str(ControllerPaths(one.state).id_se),
                    "reverse_port": one.ports.reverse,
                    "pid": self._pid(one.name),
                }
                for one in plan.controllers
            ],
            "service_engines": [
                {
                    "uuid": row["uuid"],
                    "name": row["name"],
                    "loopback": f"{row['loopback']}:{plan.first.ports.reverse}",
                    "state": str(self._state(str(row["name"]))),
                    "pid": self._pid(str(row["name"])),
                    "key": str(SePaths(self._state(str(row["name"]))).se_key),
                }
                for row in rows
            ],
            "virtual_services": [{"name": SERVICE, "url": plan.url}],
        }

    def _state(self, name: str) -> Path:
        return self.stage.plan.engine_state(name)

    def _pid(self, name: str) -> int | None:
        child = self.stage.children.get(name)
        return None if child is None else child.pid
