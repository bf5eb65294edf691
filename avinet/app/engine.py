"""A service engine, put together: enrolled once, then data plane, command server and uplinks, in that order."""

import contextlib
import random
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from avinet.app.channel_terms import terms_of
from avinet.app.engine_logs import make_log_spooler, make_unwritten, spool_choices
from avinet.app.envoy_terms import envoy_settings
from avinet.app.settings import SeSettings
from avinet.app.software import software_version
from avinet.app.steady import WallClock
from avinet.dataplane.envoy import EnvoyDataPlane
from avinet.dataplane.host_addresses import RECORD, HostAddresses
from avinet.dataplane.with_addresses import WithAddresses
from avinet.errors import AvinetError
from avinet.logs.spool import Spool
from avinet.model.events import Level
from avinet.model.ids import BootId, new_boot_id
from avinet.model.resources import Resource
from avinet.se.applier import Applier
from avinet.se.command_classes import CommandClassFile
from avinet.se.config_files import ConfigFiles
from avinet.se.drift import Drift
from avinet.se.first_boot import FirstBoot
from avinet.se.identity import SeIdentity
from avinet.se.log_owners import LogOwners
from avinet.se.log_shipper import LogPorts, LogShipper
from avinet.se.log_sources import LogSource
from avinet.se.log_spooler import LogSpooler
from avinet.se.lookout import Lookout
from avinet.se.registration_client import RegistrationClient
from avinet.se.session import Reply, SeParts
from avinet.se.uplink import Place
from avinet.se.uplinks import Uplinks, reach_through
from avinet.ssh.backoff import BackoffSettings
from avinet.ssh.commands import CommandServer
from avinet.ssh.confined import ConfinedFolder
from avinet.ssh.policy import CommandPolicy, Use
from avinet.wire.messages import (
    COMMAND_CLASSES,
    CONTROL_PORT,
    CONTROL_SERVICE,
    LIVE_AGAIN,
    LOG_LIMITS,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    TRAFFIC,
    Hello,
    Message,
    Notice,
)
from avinet.wire.registration import EnrolmentAnswer

MAX_EARLY = 10
"""Notices kept from before there are uplinks: of a start there are one or two."""
_CODES = {"refused": "COMMAND_REFUSED", "files": "FILES"}

_log = Logger()


@attrs.define(eq=False)
class Engine:
    """One service engine.  ``start`` gets an exit stack for what undoes each step."""

    reactor: Any
    settings: SeSettings
    first_boot: FirstBoot
    boot: BootId = attrs.field(factory=new_boot_id, init=False)
    applier: Applier = attrs.field(init=False)
    uplinks: Uplinks | None = attrs.field(default=None, init=False)
    """None until the last good configuration serves: what is announced before has nobody to hear it."""
    _early: deque[Notice] = attrs.field(factory=lambda: deque(maxlen=MAX_EARLY), init=False)
    """Notices from before there were uplinks."""
    data_plane: EnvoyDataPlane = attrs.field(init=False)
    _commands: CommandServer = attrs.field(init=False)
    _classes: CommandClassFile = attrs.field(init=False)
    _saving: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _choosing: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    lookout: Lookout = attrs.field(init=False)
    shipper: LogShipper = attrs.field(init=False)
    spooler: LogSpooler = attrs.field(init=False)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Traffic first: what was configured last serves before any controller is reached."""
        state = self.first_boot.paths.state
        stack.callback(self.first_boot.lock.release)
        self.data_plane = EnvoyDataPlane(
            self.reactor,
            folder=state / "data-plane",
            settings=envoy_settings(self.settings),
            in_thread=deferToThread,
        )
        self.applier = Applier(
            WithAddresses(self.data_plane, HostAddresses(state / "data-plane" / RECORD), deferToThread),
            ConfigFiles(state / "config"),
            self.reactor,
            announce=self._announce,
            in_thread=deferToThread,
            drifted=self._drifted,
            settled=self._settled,
        )
        self.spooler = make_log_spooler(self.reactor, state, self.data_plane, self._notify)
        enrolled = self.first_boot.enrolled
        if enrolled is None:
            enrolled = await self.first_boot.enrol(
                self._registration_client("strict"), WallClock(self.reactor)
            )
        await self.applier.start()
        stack.push_async_callback(self._stop_applier)
        self.lookout = Lookout(self.data_plane, self.reactor)
        self.lookout.start()
        stack.callback(self.lookout.stop)
        await self._choosing.run(
            lambda: None
        )  # the throttles of the last good state hold from the first line
        unwritten = make_unwritten(self.reactor, state, self.spooler, self._notify)
        self.lookout.subscribe(unwritten.looked)
        self.spooler.start()
        stack.push_async_callback(self.spooler.stop)
        self._ship_logs(enrolled, stack)
        self._make_uplinks(enrolled, stack)

    def _ship_logs(self, enrolled: EnrolmentAnswer, stack: contextlib.AsyncExitStack) -> None:
        """To whichever controllers there will be, once the spool is open."""
        owners = LogOwners(self.reactor)
        members = self.first_boot.members
        owners.list([controller.name for controller in members.current.controllers])
        members.listen(lambda listed: owners.list([controller.name for controller in listed.controllers]))
        self.shipper = LogShipper(ports=LogPorts.of(enrolled.services))
        stack.callback(self.shipper.stop)
        self.spooler.on_segments(self.shipper.new_segments)

        def offer(spool: Spool) -> None:
            self.shipper.begin(LogSource(spool, self.spooler.flush, deferToThread, self.reactor, owners))

        self.spooler.on_open(offer)

    def _settled(self, state: Mapping[str, Resource]) -> None:
        """What is kept of logs follows the last good state; one after another, so that the last one stays."""
        choosing = self._choosing.run(deferToThread, spool_choices, self.settings.logs, state)
        choosing.addCallback(lambda chosen: self.spooler.configure(*chosen))
        choosing.addErrback(lambda f: _log.failure("the limits of the log spool cannot be read", f))

    def _registration_client(self, dates: str) -> Any:
        return lambda members: RegistrationClient(
            self.reactor, self.reactor, partial(members.tls_options, dates=dates)
        )

    def _make_uplinks(self, enrolled: EnrolmentAnswer, stack: contextlib.AsyncExitStack) -> None:
        identity = SeIdentity.load_or_create(self.first_boot.paths)
        members = self.first_boot.members
        choices = self.settings.commands
        state = self.first_boot.paths.state
        terms = terms_of(self.settings.ssh)
        policy = CommandPolicy(
            exec_allowed=choices.exec,
            interactive_allowed=choices.interactive,
            files=ConfinedFolder(state / "files") if choices.files else None,
            time_limit_s=choices.time_limit_s,
            sessions=choices.max_sessions,
        )
        self._classes = CommandClassFile(state / "command-classes.json")
        commands = self._commands = CommandServer(
            identity.host_key,
            lambda: [controller.id_se for controller in members.current.controllers],
            self.reactor,
            self._command_used,
            policy,
            terms=terms,
        )
        commands.narrow(self._classes.load())

        async def stop_commands() -> None:
            await commands.stop()

        stack.push_async_callback(stop_commands)
        # Once enrolled, dates only warn: the SE's own clock must never cost it its controllers.
        client = self._registration_client("warn")(members)
        uplinks = self.uplinks = Uplinks(
            Place(
                enrolled.loopback,
                enrolled.services.get(CONTROL_SERVICE, CONTROL_PORT),
                commands.build,
            ),
            SeParts(
                enrolled.cluster,
                partial(self._hello, enrolled),
                self.applier,
                self.applier.report,
                self._listed,
                self.lookout,
                self._allow,
                self._live_again,
            ),
            reach_through(
                self.reactor,
                identity.se_key,
                lambda: members.refresh(client).addCallback(lambda newer: None),
                terms,
            ),
            self.reactor,
            random.SystemRandom().random,
            BackoffSettings(self.settings.uplink.backoff_base_s, self.settings.uplink.backoff_cap_s),
            self.shipper.attached,
        )
        members.listen(uplinks.update)
        uplinks.start(members.current)
        while self._early:
            uplinks.notify(self._early.popleft())

        async def stop_uplinks() -> None:
            await uplinks.stop()

        stack.push_async_callback(stop_uplinks)

    def _hello(self, enrolled: EnrolmentAnswer) -> Hello:
        return Hello(
            se=enrolled.se,
            boot=self.boot,
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL_VERSION,
            software=software_version(),
            capabilities=(TRAFFIC, COMMAND_CLASSES, LOG_LIMITS, LIVE_AGAIN),
            fence=self.applier.fence,
            version=self.applier.version,
            hash=self.applier.hash,
            membership=self.first_boot.members.current.number,
            data_plane=self.data_plane.description,
        )

    def _announce(self, message: Message, told: Reply | None) -> None:
        if self.uplinks is not None:
            self.uplinks.broadcast(message, told)

    def _live_again(self, name: str, spread_s: float) -> None:
        if self.uplinks is not None:
            self.uplinks.live_again(name, spread_s)

    def _notify(self, notice: Notice) -> None:
        if self.uplinks is not None:
            self.uplinks.notify(notice)
        else:
            self._early.append(notice)

    def _listed(self, document: str) -> None:
        try:
            self.first_boot.members.take(document)
        except AvinetError as why:
            _log.error("a membership list was refused: {why}", why=str(why))
            self._notify(
                Notice(
                    code="MEMBERSHIP_REFUSED",
                    level=Level.ERROR,
                    text=f"a membership list was refused: {why}",
                    at=WallClock(self.reactor).seconds(),
                )
            )

    def _drifted(self, drift: Drift) -> None:
        self._notify(
            Notice(
                code="CONFIG_DRIFT",
                level=Level.WARNING if drift.mended else Level.ERROR,
                text=drift.text,
                at=WallClock(self.reactor).seconds(),
                facts={"version": drift.version, "differed": drift.named, "mended": drift.mended},
            )
        )

    def _allow(self, allowed: tuple[str, ...]) -> None:
        """In force at once, on disk in a moment; what was on disk before is told anew after a crash."""
        classes = frozenset(allowed)
        self._commands.narrow(classes)
        # One after another: what was told last must be what stays.
        saving = self._saving.run(deferToThread, self._classes.save, classes)
        saving.addErrback(lambda f: _log.error("what is allowed is not kept: {why}", why=f.getErrorMessage()))

    def _command_used(self, use: Use) -> None:
        _log.info(
            "{kind} by {fingerprint}: {command!r} ended with {status} after {seconds:.1f} s",
            kind=use.kind,
            fingerprint=use.fingerprint,
            command=use.command,
            status=use.exit_status,
            seconds=use.seconds,
        )
        self._notify(
            Notice(
                code=_CODES.get(use.kind, "COMMAND"),
                level=Level.WARNING if use.kind == "refused" else Level.INFO,
                text=use.text,
                at=WallClock(self.reactor).seconds(),
                facts={
                    "kind": use.kind,
                    "command": use.command,
                    "fingerprint": use.fingerprint,
                    "exit_status": use.exit_status,
                    "seconds": round(use.seconds, 3),
                    "terminal": use.pty,
                },
            )
        )

    async def _stop_applier(self) -> None:
        await self.applier.stop()
