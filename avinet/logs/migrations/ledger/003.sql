-- Segments that are in the store though nothing else here says so: the ledger that did was lost, and the store's files told.
CREATE TABLE known (
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (se, incarnation, first)
) WITHOUT ROWID;
-- How much of a file is whose: the largest parts.
CREATE TABLE part (
    file TEXT NOT NULL REFERENCES file (name) ON DELETE CASCADE,
    se TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    significant INTEGER NOT NULL,
    full INTEGER NOT NULL,
    PRIMARY KEY (file, se)
) WITHOUT ROWID;
-- What was done at a start about a catalogue that did not fit the store's files: the last time.
CREATE TABLE mended (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_us INTEGER NOT NULL,
    body BLOB NOT NULL
);
