"""Service engines as processes on this machine: a folder and a supervised ``twistd avise`` each.

For a demo, for tests, and for a single machine that is both.  An SE's folder is ``<base>/<uuid>``: its image
and meta-info until it enrolled, its state for good.  What ends the controller ends its agents, whose data
planes go on and are adopted at the next start; deleting an SE ends its data plane too.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.logger import Logger

from avinet.cloud.child import Child, Command, RotatingLog, passed_on
from avinet.cloud.interface import CloudError
from avinet.model.engine import SeRecord
from avinet.model.ids import SeId
from avinet.trust.files import destroy, private_dir, write_private
from avinet.wire.registration import MetaInfo

LOG_NAME = "avise.log"
_log = Logger()

EndDataPlane = Callable[[Path], Deferred[None]]
"""Ends the data plane that belongs to an SE's state folder."""


@attrs.frozen
class LocalSettings:
    """``base`` holds a folder an SE; ``config`` is a settings file for all of them, if any."""

    base: Path
    config: Path | None = None


@attrs.define(eq=False)
class LocalCloud:
    """``Cloud`` with processes."""

    settings: LocalSettings
    processes: IReactorProcess
    clock: IReactorTime
    end_data_plane: EndDataPlane
    name: ClassVar[str] = "local"
    _children: dict[SeId, Child] = attrs.field(factory=dict, init=False, repr=False)

    def folder(self, se: SeId) -> Path:
        """Everything of one SE."""
        return self.settings.base / se

    def state_folder(self, se: SeId) -> Path:
        """What its agent is given as ``--state``."""
        return self.folder(se) / "state"

    def pid(self, se: SeId) -> int | None:
        """Of its agent, while that runs."""
        child = self._children.get(se)
        return None if child is None else child.pid

    def create(self, record: SeRecord, image: Path, meta: MetaInfo) -> Deferred[None]:
        """Lay out the folder and start the agent."""
        return Deferred.fromCoroutine(self._create(record, image, meta))

    async def _create(self, record: SeRecord, image: Path, meta: MetaInfo) -> None:
        running = self._children.pop(record.uuid, None)
        if running is not None:
            await running.stop()
        try:
            self._lay_out(record.uuid, image, meta)
        except OSError as failure:
            raise CloudError(
                cloud=self.name, action="create", se=record.name, detail=str(failure)
            ) from failure
        self._start(record)

    def _lay_out(self, se: SeId, image: Path, meta: MetaInfo) -> None:
        folder = self.folder(se)
        for each in (self.settings.base, folder, self.state_folder(se)):
            private_dir(each)
        write_private(folder / "image.tar", image.read_bytes())
        write_private(folder / "meta-info.json", msgspec.json.encode(meta))

    def has(self, record: SeRecord) -> bool:
        """Whether there is a folder."""
        return self.folder(record.uuid).is_dir()

    def resume(self, record: SeRecord) -> Deferred[None]:
        """Start the agent of an SE that has a folder."""

        async def start() -> None:
            if not self.state_folder(record.uuid).is_dir():
                raise CloudError(
                    cloud=self.name, action="resume", se=record.name, detail="its folder is gone; delete it"
                )
            self._start(record)

        return Deferred.fromCoroutine(start())

    def _start(self, record: SeRecord) -> None:
        child = self._children.get(record.uuid)
        if child is None:
            child = self._children[record.uuid] = self._child(record)
        child.start()

    def _child(self, record: SeRecord) -> Child:
        folder, state = self.folder(record.uuid), self.state_folder(record.uuid)
        arguments = [
            str(Path(sys.executable).with_name("twistd")),
            "--nodaemon",
            "avise",
            "--state",
            str(state),
        ]
        if (folder / "image.tar").exists():
            arguments += ["--image", str(folder / "image.tar")]
        if (folder / "meta-info.json").exists():
            arguments += ["--meta-info", str(folder / "meta-info.json")]
        if self.settings.config is not None:
            arguments += ["--config", str(self.settings.config)]
        return Child(
            record.name,
            Command(tuple(arguments), folder, passed_on()),
            RotatingLog(folder / LOG_NAME),
            self.processes,
            self.clock,
        )

    def connected(self, record: SeRecord) -> None:
        """The SE has what it needs in its state: image and token are destroyed."""
        folder = self.folder(record.uuid)
        destroy(folder / "image.tar")
        destroy(folder / "meta-info.json")

    def delete(self, record: SeRecord) -> Deferred[None]:
        """Stop the agent, end its data plane, remove its folder."""
        return Deferred.fromCoroutine(self._delete(record))

    async def _delete(self, record: SeRecord) -> None:
        child = self._children.pop(record.uuid, None)
        if child is not None:
            await child.stop()
        folder = self.folder(record.uuid)
        if not folder.is_dir():
            return
        await self.end_data_plane(self.state_folder(record.uuid))
        try:
            shutil.rmtree(folder)
        except OSError as failure:
            raise CloudError(
                cloud=self.name, action="delete", se=record.name, detail=str(failure)
            ) from failure

    def stop(self) -> Deferred[None]:
        """Stop every agent."""
        stopping = gatherResults([child.stop() for child in self._children.values()], consumeErrors=True)
        return stopping.addCallback(lambda _: None)
