"""etcd as a child of the controller: started with its configuration in a file, kept running, never orphaned.

It gets SIGKILL when the controller dies, however that happens, so that neither its ports nor its files are held when
the next controller starts; what it has acknowledged is on disk.  Stopped in order, it gets SIGTERM and hands a
leadership over first.
"""

import errno
import os
import shutil
import signal
import socket
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from avinet.cloud.child import Child, Command, RotatingLog, passed_on
from avinet.controller.state_engine_binary import EtcdBinary
from avinet.controller.state_engine_config import HOST, EnginePlan, rendered
from avinet.controller.state_engine_failure import last_words, reason_of
from avinet.controller.state_engine_files import EngineFiles, Progress
from avinet.errors import AvinetError
from avinet.ports import cannot_listen
from avinet.trust.files import private_dir, write_private
from avinet.units import MIB

PORT_WAIT_S = 5.0
"""For the ports to be let go of by an etcd whose controller has just died: a moment, on a busy machine a second."""
PORT_LOOK_S = 0.1

_log = Logger()


@attrs.define(eq=False)
class EngineProcess:
    """One etcd.  ``ended`` is told why, each time that nobody asked it to end; it is started again by itself."""

    files: EngineFiles
    reactor: Any
    ended: Callable[[AvinetError], None]
    _child: Child | None = attrs.field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return None if self._child is None else self._child.pid

    async def start(self, plan: EnginePlan, progress: Progress, binary: EtcdBinary) -> None:
        """Write its configuration and run it, unless it runs."""
        if self._child is not None:
            return
        await self._await_port(plan.client_port, "[store] client_port")
        await self._await_port(plan.peer_port, "[store] peer_port")
        private_dir(self.files.data)
        write_private(
            self.files.configuration,
            msgspec.json.format(msgspec.json.encode(rendered(plan, self.files, progress))),
        )
        self._child = Child(
            "the state engine",
            Command(
                (str(binary.path), "--config-file", str(self.files.configuration)),
                self.files.folder,
                passed_on(),
                at_our_death=signal.SIGKILL,
            ),
            RotatingLog(self.files.log),
            self.reactor,
            self.reactor,
            self._ended,
        )
        self._child.start()

    async def stop(self) -> None:
        """SIGTERM, later SIGKILL; comes back when it is gone."""
        child, self._child = self._child, None
        if child is not None:
            await child.stop()

    async def _await_port(self, port: int, setting: str) -> None:
        until = self.reactor.seconds() + PORT_WAIT_S
        while (why := _bind_error(port)) is not None:
            if why.errno != errno.EADDRINUSE or self.reactor.seconds() >= until:
                raise cannot_listen(port, HOST, setting, why)
            await _pause(self.reactor, PORT_LOOK_S)

    def _ended(self, how: str) -> None:
        said = last_words(self.files.log)
        if not said and shutil.disk_usage(self.files.folder).free < MIB:
            said = os.strerror(errno.ENOSPC)  # its words found no room either
        why = reason_of(said, how, self.files.log, self.files.data)
        _log.warn("{why}", why=str(why))
        self.ended(why)


def _bind_error(port: int) -> OSError | None:
    """Why etcd could not listen there; None when it could."""
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as why:
            return why
    return None


def _pause(reactor: Any, seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)
