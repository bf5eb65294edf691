-- Copies.  A controller's own ledger knows whose copy of which segment counts; the ledger of a copy set, which is another
-- file with the same tables, whose store it is a copy of.
CREATE TABLE copy_of (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    controller TEXT NOT NULL,
    uncopied INTEGER NOT NULL DEFAULT 0,
    uncopied_us INTEGER NOT NULL DEFAULT 0
);
-- Of a set: segments that are here for good and count only once their controller says so.
CREATE TABLE held (
    id INTEGER PRIMARY KEY,
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    head BLOB NOT NULL,
    raw_bytes INTEGER NOT NULL,
    pack INTEGER,
    place INTEGER NOT NULL,
    UNIQUE (se, incarnation, counter)
);
CREATE INDEX held_in ON held (pack, se) WHERE pack IS NOT NULL;
-- Of a set: segments that are not here, since the copy of another controller counts.
CREATE TABLE placed (
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    keeper TEXT NOT NULL,
    PRIMARY KEY (se, incarnation, counter)
) WITHOUT ROWID;
-- Of a controller's own: segments that count, which their keeper has not heard.
CREATE TABLE owed (
    keeper TEXT NOT NULL,
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    PRIMARY KEY (keeper, se, incarnation, counter)
) WITHOUT ROWID;
-- The same: how many records have their copy where, nowhere under the empty name, and the time of the newest.
CREATE TABLE copied (
    keeper TEXT PRIMARY KEY,
    records INTEGER NOT NULL,
    newest_us INTEGER NOT NULL
) WITHOUT ROWID;
