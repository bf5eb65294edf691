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
        paths = ControllerPaths(plan.controller_state)
        cluster, name = read_cluster(plan.controller_state)
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
                    "name": name,
                    "ssh": f"127.0.0.1:{plan.ports.ssh}",
                    "registration": f"127.0.0.1:{plan.ports.registration}",
                    "api": f"https://127.0.0.1:{plan.ports.api}",
                    "state": str(plan.controller_state),
                    "pid": self._pid(plan.controller),
                }
            ],
            "service_engines": [
                {
                    "uuid": row["uuid"],
                    "name": row["name"],
                    "loopback": f"{row['loopback']}:{plan.ports.reverse}",
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
