"""Files of the store that cannot be read any more: found when a query or a merge trips over one, and set aside.

One damaged file must not keep all others of its time from being asked.  What an engine says is not believed at once: a
worker reads every value of the files that it named, and only one that fails alone is taken out of the catalogue.
"""

import re
from collections.abc import Awaitable, Callable, Sequence

import attrs

from avinet.errors import AvinetError
from avinet.logs.entries import StoreFile
from avinet.logs.ledger import Ledger
from avinet.logs.store.folders import Folders
from avinet.logs.store.jobs import Check, Checked, Done, Job
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.upkeep import NAME

CHECK_LIMIT_S = 600.0
"""Reading every value of an hour's files; a merged file of 128 MiB takes 2 s."""
_NAME = re.compile(NAME)


@attrs.frozen(eq=False)
class Damage:
    """``check`` has a worker do a job; ``around.lost`` is told of each file and why it cannot be read."""

    ledger: Ledger
    folders: Folders
    check: Callable[[Job, float], Awaitable[Done]]
    around: Surroundings

    async def set_aside(self, said: str, files: Sequence[StoreFile]) -> bool:
        """Those of ``files`` that cannot be read, after an engine has ``said`` what it did not like.

        Whether there is any reason to try again without them: they went, or were gone already.
        """
        named = set(_NAME.findall(said))
        suspects = {
            str(self.folders.store / one.name): one for one in files if not named or one.name in named
        }
        if not suspects:
            return False
        try:
            checked = await self.check(Check(files=tuple(suspects)), CHECK_LIMIT_S)
        except AvinetError:
            return False
        if not isinstance(checked, Checked) or not checked.damaged:
            return False
        for one in checked.damaged:
            file = suspects[one.path]
            if await self.around.in_thread(self._remove, file):
                self.around.lost(file, one.why)
        return True

    def _remove(self, file: StoreFile) -> bool:
        """Whether it was listed until now: it may have been merged meanwhile."""
        if not self.ledger.delist(file.name):
            return False
        self.folders.set_file_aside(file.name)
        return True
