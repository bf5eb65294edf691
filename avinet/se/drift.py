"""What a data plane had that it should not have had: somebody's change by hand, old files, a file half written."""

from collections.abc import Mapping

import attrs

from avinet.model.ids import ConfigVersion

MAX_NAMES = 10
"""In what is told of one drift: whoever reads it wants to know where to look, not the whole."""


@attrs.frozen
class Drift:
    """One difference that was noticed, and whether it is mended."""

    version: ConfigVersion
    """What should have been in force."""
    differed: tuple[str, ...]
    """Resources that were missing or not as they should be, then what should not have been there at all."""
    mended: bool

    @property
    def named(self) -> str:
        """The first of what differed, and how many more."""
        more = len(self.differed) - MAX_NAMES
        return ", ".join(self.differed[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")

    @property
    def text(self) -> str:
        """For people."""
        outcome = "It was put right." if self.mended else "It could not be put right yet, and is tried again."
        return f"the data plane did not have configuration {self.version} in force: {self.named} differed. {outcome}"


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The names that two states (name to hash) do not have alike."""
    wrong = sorted(name for name, digest in wanted.items() if found.get(name) != digest)
    return (*wrong, *sorted(name for name in found if name not in wanted))
