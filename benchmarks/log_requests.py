"""Requests whose logs can be told from all others': each path is asked for once, and what was answered is remembered."""

import http.client
from typing import Any

import attrs

from benchmarks.beside import Beside

HOST = "kills"
ROUND_PATHS = 8_000
"""More than that in a round are not asked for: an answer has 10,000 rows at most."""
MAX_ROWS = 10_000
PAUSE_S = 0.002
"""Between two requests of a client: what is measured is loss, not load."""
FAILING_EACH = 5
"""One in so many requests goes to a virtual service without a server: a significant log."""
TIMEOUT_S = 10.0


@attrs.define(eq=False)
class Requests(Beside):
    """Asks for ``/<name>/<round>/<number>``, one after the other, until told to stop."""

    name: str
    ports: tuple[tuple[int, int], ...]
    """Of each engine: a virtual service that works, and one that does not."""
    pause_s: float = PAUSE_S
    failing_each: int = FAILING_EACH
    round: int = attrs.field(default=0, init=False)
    answered: dict[int, set[str]] = attrs.field(factory=dict, init=False)
    """Paths, by round."""
    unanswered: set[str] = attrs.field(factory=set, init=False)
    _number: int = attrs.field(default=0, init=False)

    def _run(self) -> None:
        connections: dict[int, http.client.HTTPConnection] = {}
        while not self._over.wait(self.pause_s):
            current = self.answered.setdefault(self.round, set())
            if len(current) >= ROUND_PATHS:
                continue
            self._number += 1
            port = self.ports[self._number % len(self.ports)][self._number % self.failing_each == 0]
            path = f"/{self.name}/{self.round}/{self._number}"
            connection = connections.setdefault(
                port, http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            )
            try:
                connection.request("GET", path, headers={"Host": HOST})
                connection.getresponse().read()
                current.add(path)
            except (OSError, http.client.HTTPException):
                # Whether it was served nobody knows.
                self.unanswered.add(path)
                connection.close()


def logged_service(name: str, group: str, server: int, port: int) -> tuple[dict[str, Any], ...]:
    """A virtual service on loopback with a pool of one server, all of whose requests are logged."""
    pool = {"kind": "Pool", "name": name, "servers": [{"ip": "127.0.0.1", "port": server}]}
    service = {
        "kind": "VirtualService",
        "name": name,
        "vip": [{"ip_address": "127.0.0.1"}],
        "services": [{"port": port}],
        "pool_ref": name,
        "se_group_ref": group,
        "analytics_policy": {"full_client_logs": {"enabled": True}},
    }
    return pool, service


def answers(port: int) -> bool:
    """Whether a virtual service does, there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/", headers={"Host": "nobody"})
        return connection.getresponse().status in {200, 503}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
