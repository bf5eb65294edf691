"""``twistd avise``: options, the state folder, and the service."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
from twisted.application.service import IService
from twisted.python import usage

from avinet.app.role import RoleService, own_pid_file, own_state_folder
from avinet.app.settings import SeSettings, load_se_settings
from avinet.app.steady import keep_steady
from avinet.errors import AvinetError
from avinet.se.first_boot import FirstBoot

TITLE = "avinet service engine"
PID_FILE = "se.pid"


class Options(usage.Options):
    """The service engine's command line."""

    synopsis = "[options]"
    longdesc = (
        "Runs a service engine. The first start needs --image and --meta-info (see `avinet image build` and "
        "`avinet se token create`); once enrolled neither is looked at. Settings: see etc/se.toml."
    )
    optParameters = [  # noqa: RUF012 - as twisted.python.usage wants it
        ["state", None, "/var/lib/avinet/se", "Folder of everything this service engine keeps."],
        ["image", None, None, "The SE image to enrol from."],
        ["meta-info", None, None, "What this SE was told at its creation: controllers, cluster, token."],
        [
            "envoy-started-by",
            None,
            None,
            "agent or service; wins over [data_plane] started_by of the settings.",
        ],
        ["config", None, None, "Settings file (TOML). Without one every setting has its default."],
    ]

    def postOptions(self) -> None:
        """Check the settings before anything else happens."""
        try:
            self.settings: SeSettings = load_se_settings(Path(self["config"]) if self["config"] else None)
        except AvinetError as why:
            raise SystemExit(f"{TITLE} cannot start: {why}") from why
        if self["envoy-started-by"]:
            self.settings = started_by(self.settings, self["envoy-started-by"])
        self.state = Path(self["state"]).absolute()
        self.image = Path(self["image"]).absolute() if self["image"] else None
        self.meta_info = Path(self["meta-info"]).absolute() if self["meta-info"] else None
        own_state_folder(self.state)
        own_pid_file(self, self.state, PID_FILE, TITLE)


def started_by(settings: SeSettings, who: str) -> SeSettings:
    """The settings with another ``[data_plane] started_by``."""
    if who not in {"agent", "service"}:
        raise usage.UsageError(f"--envoy-started-by {who}: it must be agent or service")
    section = msgspec.structs.replace(settings.data_plane, started_by=who)
    return msgspec.structs.replace(settings, data_plane=section)


def makeService(options: Options) -> IService:
    """The service engine as a service that twistd runs."""
    from twisted.internet import reactor

    any_reactor: Any = reactor
    keep_steady(any_reactor)

    async def start(stack: contextlib.AsyncExitStack) -> None:
        first_boot = FirstBoot.begin(options.state, options.image, options.meta_info)
        # Here, since it brings most of avinet: wrong settings and images are told without it.
        from avinet.app.engine import Engine

        await Engine(any_reactor, options.settings, first_boot).start(stack)

    return RoleService(TITLE, any_reactor, any_reactor, start)
