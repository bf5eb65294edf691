"""What a start has done about a ledger that was damaged, or that did not fit what is on the disk, as people are told it."""

import msgspec


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """One start's."""

    why: str = ""
    """What was wrong with the ledger, when it was made anew."""
    aside: str = ""
    """Where the damaged one is, in the folder of logs."""
    files: int = 0
    """Of the store, that nothing listed and that count again."""
    records: int = 0
    """In these."""
    unnamed: int = 0
    """Of these: files that do not say (all of) the segments they hold."""
    missing: int = 0
    """Files that were listed and are not there."""
    missing_records: int = 0
    removed: int = 0
    """Files whose records others have, or segments that wait."""
    set_aside: int = 0
    """Files that cannot be read, or have some records of others and some of their own."""
    set_aside_records: int = 0
    """In these, as far as they can be read."""
    left: int = 0
    """Files that could not be looked at; they are at the next start."""

    @property
    def noteworthy(self) -> bool:
        """A crash leaves a file that others make up for, which is nothing to tell."""
        return bool(self.why or self.files or self.missing or self.set_aside or self.left)

    @property
    def text(self) -> str:
        """Sentences."""
        said = []
        if self.why:
            said.append(
                f"The list of all request logs (ledger.db) was damaged ({self.why}). It was made anew; the damaged one is kept"
                f" in {self.aside}. Pulls that were under way are to be asked for again."
            )
        if self.files:
            said.append(
                f"{self.files} files of the log store that nothing listed count again, with {self.records} records."
            )
        if self.unnamed:
            said.append(
                f"{self.unnamed} of them do not say which segments they hold: what a service engine sends again of these is"
                " there twice."
            )
        if self.missing:
            said.append(
                f"{self.missing} files that were listed are not there; they had {self.missing_records} records."
            )
        if self.set_aside:
            said.append(
                f"{self.set_aside} files were set aside, with {self.set_aside_records} records, as far as they can be read."
            )
        if self.left:
            said.append(f"{self.left} files could not be looked at; the next start tries again.")
        return " ".join(said)
