"""Runs the demo: raise the stage, send traffic, show it or check it, and take everything down again."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import attrs
import click
from rich.console import Console
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory

from avinet.app.demo.check import Check
from avinet.app.demo.facts import Facts
from avinet.app.demo.namespaces import Namespaces, NoNamespacesError
from avinet.app.demo.plan import BACKENDS, DemoPlan, controller_plans
from avinet.app.demo.ports import choose_ports
from avinet.app.demo.screen import Screen, Seen
from avinet.app.demo.stage import Stage
from avinet.app.demo.traffic import Traffic
from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import private_dir

REFRESH_S = 1.0
SIZES = (1, 3)
"""Two lose their majority with either of them, and so are worse than one."""

_log = Logger()


@error
class DemoOptionsError(AvinetError):
    """{what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str


@attrs.frozen
class DemoOptions:
    """What the command line chose.  Without ``folder`` the demo makes one and removes it again."""

    folder: Path | None = None
    controllers: int = 1
    engines: int = 2
    traffic: bool = True
    restart: bool = True
    check: bool = False
    as_json: bool = False
    """Print ``demo.json`` once all is up, and everything else on stderr."""

    def validate(self) -> None:
        """Refuse what cannot be run."""
        if self.controllers not in SIZES:
            raise DemoOptionsError(what=f"a cluster has 1 or 3 controllers, not {self.controllers}")
        if self.folder is not None and self.folder.exists() and any(self.folder.iterdir()):
            raise DemoOptionsError(what=f"{self.folder} is not empty; name a new folder, or remove it")


@attrs.define(eq=False)
class Demo:
    """One run.  ``status`` is the process's exit status in the end."""

    reactor: Any
    options: DemoOptions
    plan: DemoPlan
    stage: Stage = attrs.field(init=False)
    screen: Screen = attrs.field(init=False)
    traffic: Traffic | None = attrs.field(default=None, init=False)
    status: int = attrs.field(default=0, init=False)
    _facts: Facts = attrs.field(init=False)
    _rounds: LoopingCall = attrs.field(init=False)
    _work: Deferred[None] | None = attrs.field(default=None, init=False)
    _stopping: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.stage = Stage(self.reactor, self.plan, self.options.restart)
        if self.options.traffic:
            # Two lines of log for each request would bury what the demo started and what died.
            _HTTP11ClientFactory.noisy = False
            agent = Agent(self.reactor, pool=HTTPConnectionPool(self.reactor, persistent=False))
            self.traffic = Traffic(self.reactor, agent, self.plan.url)
        self.screen = Screen(self.plan, self.traffic, Console(stderr=self.options.as_json))
        self._facts = Facts(self.stage)
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = self.reactor

    def start(self) -> None:
        """Called by the running reactor.  Signals are ours: each of them stops, and a second one is harmless."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.reactor.callFromThread(self.stop))
        self._work = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        started = self.reactor.seconds()
        try:
            await self.stage.raise_all(self.screen.say)
            await deferToThread(self._write_facts)
            if self.options.as_json:
                click.echo(self.plan.facts.read_bytes())
            self.screen.say(f"up after {self.reactor.seconds() - started:.1f} s")
            if self.traffic is not None:
                self.traffic.start()
            if self.options.check:
                check = Check(self.stage, lambda line: self.reactor.callFromThread(self.screen.say, line))
                self.status = 0 if await deferToThread(check.run) else 1
                self.screen.say("everything holds" if not self.status else f"{check.failed} checks failed")
                self.stop()
                return
            self.screen.open()
            await self._rounds.start(REFRESH_S)
        except AvinetError as why:
            if not self._stopping:
                self.status = 1
                self.screen.say(str(why))
        except Exception:  # noqa: BLE001 - the edge: tell, and take everything down
            if not self._stopping:
                self.status = 1
                _log.failure("the demo failed")
                self.screen.say(f"the demo failed; see {self.plan.folder}/demo.log")
        self.stop()

    def _write_facts(self) -> None:
        self._facts.write(self.stage.engine_rows())

    async def _round(self) -> None:
        try:
            seen = await deferToThread(self._look)
        except AvinetError as why:
            self.screen.show([], str(why))
        else:
            self.screen.show(seen)

    def _look(self) -> list[Seen]:
        rows = self.stage.engine_rows()
        self._facts.write(rows)
        return [Seen(row, self._requests(row)) for row in rows]

    def _requests(self, row: dict[str, Any]) -> int | None:
        if row["state"] != "UP":
            return None
        try:
            runtime = self.stage.client.get(f"/api/serviceengine/{row['uuid']}/runtime")
        except AvinetError:
            return None
        return sum(int(service["requests"]) for service in runtime["services"])

    def stop(self) -> None:
        """Take everything down, once."""
        if self._stopping:
            return
        self._stopping = True
        if self._rounds.running:
            self._rounds.stop()
        if self.traffic is not None:
            self.traffic.stop()
        self.screen.close()
        self.screen.say("stopping")
        stopping = self.stage.stop_all()
        stopping.addErrback(lambda f: _log.failure("stopping failed", f))
        stopping.addBoth(lambda _: self.reactor.stop())


def _namespaces(controllers: int) -> tuple[Namespaces | None, str]:
    """One for each of several controllers, or why not."""
    if controllers == 1:
        return None, ""
    try:
        return Namespaces.make(controllers), ""
    except NoNamespacesError as why:
        return None, str(why)


def run(options: DemoOptions) -> int:
    """Run a demo until it is stopped; the exit status."""
    options.validate()
    own_folder = options.folder is None
    folder = Path(tempfile.mkdtemp(prefix="avinet-demo-")) if options.folder is None else options.folder
    folder = private_dir(folder.absolute())
    names = tuple(f"se-{number}" for number in range(1, options.engines + 1))
    namespaces, why = _namespaces(options.controllers)
    from twisted.internet import reactor

    try:
        ports = choose_ports(len(BACKENDS), options.controllers)
        plan = DemoPlan(folder, controller_plans(folder, ports, namespaces), ports, names)
        with (folder / "demo.log").open("w") as log:
            globalLogBeginner.beginLoggingTo([textFileLogObserver(log)], redirectStandardIO=False)
            demo = Demo(reactor, options, plan)
            if why:
                demo.screen.say(f"{why} Their state engines are linked directly, not through SSH.")
            reactor.callWhenRunning(demo.start)
            reactor.run()
    finally:
        if namespaces is not None:
            namespaces.remove()
    if own_folder and not demo.status:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    return demo.status
