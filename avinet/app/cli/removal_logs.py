"""What becomes of a controller's request logs when it is removed: told before, while it can still be helped, and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.output import text_of
from avinet.errors import AvinetError

EXPORT = "To have what goes, first: avinet logs export FILE"


@attrs.frozen
class Fate:
    """Of one controller's records."""

    name: str
    stay: int
    """Copies with others, which count from then on."""
    go: int | None
    """Records without a copy; None where nobody knows how many."""
    bared: int
    """Records of others whose copies it keeps."""
    silent: tuple[str, ...]
    """Other controllers that have not said what they have."""

    def before(self) -> list[str]:
        """Lines to be read before it is removed."""
        return [*self._lines(), *([EXPORT] if self.go != 0 else [])]

    def after(self) -> list[str]:
        """Lines about what was done."""
        return [line.replace("have none then", "have none now") for line in self._lines()]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"stay": self.stay, "go": self.go, "bared": self.bared, "not_counted": list(self.silent)}

    def _lines(self) -> list[str]:
        go = (
            "nobody knows how many records without a copy" if self.go is None else f"{self.go} without a copy"
        )
        found = [f"Of its request logs {self.stay} records stay as copies with others; {go} go with it."]
        if self.bared:
            found.append(f"It keeps copies of {self.bared} records of others, which have none then.")
        if self.silent:
            found.append(f"Not counted is what {', '.join(self.silent)} may have.")
        return found


def fate_of(client: Client, name: str) -> Fate | None:
    """As all controllers say now; None where there is nothing to say, or nobody to ask."""
    try:
        rows = client.get(path_to("logs", "status")).get("controllers") or ()
    except AvinetError:
        return None  # its removal is not held up by that
    return fate(rows, name)


def fate(rows: Sequence[Mapping[str, Any]], name: str) -> Fate | None:
    """Of the rows of ``logs status``."""
    own = next((row for row in rows if row["controller"] == name), None)
    if own is None:
        return None
    others = [row for row in rows if row["controller"] != name]
    copies = [one for row in others for one in row.get("copies", ()) if one["controller"] == name]
    store = own.get("store")
    # Of one that is lost the copies alone know, and are told no more once it is.
    told = max((one["uncopied"] for one in copies), default=None)
    go = min(own.get("uncopied", 0), store["records"]) if store else told
    bared = sum(one["records"] for one in own.get("copies", ()) if one["controller"] != name)
    silent = tuple(text_of(row["controller"]) for row in others if not row.get("store"))
    return Fate(text_of(name), sum(one["records"] for one in copies), go, bared, silent)
