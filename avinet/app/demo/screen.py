"""The demo's live status screen: SEs, state, round trip, configuration, requests served by each."""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from avinet.app.demo.namespaces import inside
from avinet.app.demo.plan import DemoPlan
from avinet.app.demo.traffic import Traffic

PLAIN_EVERY_S = 10.0
"""Without a terminal a line is printed this often."""


def exported(state: Path) -> str:
    """The line after which ``avinet`` is this demo's, where a shell does not find the program by itself, too."""
    mine = Path(sys.executable).parent
    path = "" if shutil.which("avinet") == str(mine / "avinet") else f"PATH={shlex.quote(str(mine))}:$PATH "
    return f"export {path}AVINET_STATE={shlex.quote(str(state))}"


@attrs.frozen
class Seen:
    """One SE at one moment."""

    row: dict[str, Any]
    requests: int | None
    """Since its Envoy started; None when it cannot be asked."""


@attrs.define
class Screen:
    """Shows on a terminal as a table that stays in place, else, and on stderr, as a line now and then."""

    plan: DemoPlan
    traffic: Traffic | None
    console: Console = attrs.field(factory=Console)
    _live: Live | None = attrs.field(default=None, init=False)
    _last_line: float = attrs.field(default=-PLAIN_EVERY_S, init=False)

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(f"avinet demo: {text}", highlight=False, soft_wrap=True)

    def open(self) -> None:
        """Begin to show."""
        plan = self.plan
        self.say(f"everything is in {plan.folder}")
        self.say(f"the virtual service answers at {plan.url}")
        self.say(f"in another terminal: {exported(plan.first.state)}; avinet se list")
        self.say(f"its ports are free ones rather than the usual: {plan.first.settings}")
        if len(plan.controllers) > 1:
            self.say("its controllers: avinet cluster status; end one: kill -9 PID, see demo.json")
        if within := shlex.join(inside(plan.first.namespace)):
            self.say(f"se exec, copy and ssh, and doctor, by: {within} avinet se exec se-1 uptime")
        if self.console.is_terminal and not self.console.stderr:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, seen: list[Seen], trouble: str = "") -> None:
        """What is now; ``trouble`` is why it could not be asked."""
        if self._live is not None:
            self._live.update(self._table(seen, trouble), refresh=True)
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            parts = [f"{s.row['name']} {s.row['state']} {_sync(s.row)}{_served(s.requests)}" for s in seen]
            self.say("; ".join([*parts, self._traffic_line(), *([trouble] if trouble else [])]))

    def _table(self, seen: list[Seen], trouble: str) -> Group:
        table = Table(title=f"avinet demo  {self.plan.url}")
        for name in ("service engine", "state", "round trip", "config", "requests served"):
            table.add_column(name, justify="right" if name == "requests served" else "left")
        for one in seen:
            rtt = one.row.get("rtt_ms")
            style = "green" if one.row["state"] == "UP" else "red"
            table.add_row(
                one.row["name"],
                Text(one.row["state"], style=style),
                "" if rtt is None else f"{rtt:.1f} ms",
                _sync(one.row),
                _count(one.requests),
            )
        lines = [self._traffic_line(), "Ctrl-C stops everything."]
        return Group(table, *([Text(trouble, style="red")] if trouble else []), *lines)

    def _traffic_line(self) -> str:
        if self.traffic is None:
            return "no traffic is sent"
        answered = ", ".join(f"{count} {name}" for name, count in sorted(self.traffic.answered.items()))
        failed = (
            f", {self.traffic.failed} failed ({self.traffic.last_failure})" if self.traffic.failed else ""
        )
        return f"answers: {answered or 'none yet'}{failed}"


def _sync(row: dict[str, Any]) -> str:
    if not row["in_sync"]:
        return "not in sync"
    return f"in sync, version {row['version']}" if row.get("version") else "in sync"


def _served(requests: int | None) -> str:
    return "" if requests is None else f", {requests:,} requests served"


def _count(requests: int | None) -> str:
    return "" if requests is None else f"{requests:,}"
