"""``twistd avicontroller``: options, identity, and the service."""

import contextlib
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from avinet.app.facts import facts_of
from avinet.app.role import REMOVED, RoleService, end_process, own_pid_file, own_state_folder
from avinet.app.settings import ControllerSettings, load_controller_settings
from avinet.app.steady import keep_steady
from avinet.errors import AvinetError
from avinet.trust.locks import StateLock
from avinet.trust.node import ControllerIdentity, ControllerPaths

TITLE = "avinet controller"

_log = Logger()


class Options(usage.Options):
    """The controller's command line."""

    synopsis = "[options]"
    longdesc = (
        "Runs a controller of an avinet cluster. The first start makes its keys and documents in the state "
        "folder, as `avinet init` does. Settings: see etc/controller.toml."
    )
    optParameters = [  # noqa: RUF012 - as twisted.python.usage wants it
        ["state", None, "/var/lib/avinet/controller", "Folder of everything this controller keeps."],
        ["config", None, None, "Settings file (TOML). Without one every setting has its default."],
    ]

    def postOptions(self) -> None:
        """Check the settings before anything else happens."""
        try:
            self.settings: ControllerSettings = load_controller_settings(
                Path(self["config"]) if self["config"] else None
            )
        except AvinetError as why:
            raise SystemExit(f"{TITLE} cannot start: {why}") from why
        self.state = Path(self["state"]).absolute()
        own_state_folder(self.state)
        own_pid_file(self, self.state, ControllerPaths(self.state).pid.name, TITLE)


def makeService(options: Options) -> IService:
    """The controller as a service that twistd runs."""
    from twisted.internet import reactor

    any_reactor: Any = reactor
    keep_steady(any_reactor)

    async def start(stack: contextlib.AsyncExitStack) -> None:
        stack.callback(StateLock.take(options.state, TITLE).release)
        # Signed is the list once the store is there, which may have another.
        identity = ControllerIdentity.init(options.state, facts_of(options.settings), sign=False)
        # Here, since it brings most of avinet: wrong settings and a folder in use are told without it.
        from avinet.app.controller import Controller

        await Controller(any_reactor, options.settings, identity, removed).start(stack)

    def removed(why: AvinetError) -> None:
        _log.critical("{title} stops: {why}", title=TITLE, why=str(why))
        end_process(any_reactor, REMOVED)

    return RoleService(TITLE, any_reactor, any_reactor, start)
