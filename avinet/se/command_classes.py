"""What controllers may use this SE for, as its group says: kept on disk, so that it holds without any controller too."""

from pathlib import Path

import attrs
import msgspec
from twisted.logger import Logger

from avinet.model.config import CommandClass
from avinet.trust.files import write_private

_log = Logger()


@attrs.frozen
class CommandClassFile:
    """``command-classes.json`` of an SE's state.  Blocking."""

    path: Path

    def load(self) -> frozenset[str]:
        """What was told last; everything before anything was.  A damaged file allows nothing until it is told anew."""
        try:
            return frozenset(msgspec.json.decode(self.path.read_bytes(), type=list[str]))
        except FileNotFoundError:
            return frozenset(CommandClass)
        except (OSError, msgspec.MsgspecError) as why:
            _log.error(
                "{path} cannot be read, so nothing is allowed: {why}", path=str(self.path), why=str(why)
            )
            return frozenset()

    def save(self, allowed: frozenset[str]) -> None:
        """Durable when it returns."""
        write_private(self.path, msgspec.json.encode(sorted(allowed)))
