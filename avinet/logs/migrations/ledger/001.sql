-- One row for each segment that arrived, until its SE can send it no more: that is what makes delivery exactly once.
CREATE TABLE segment (
    id INTEGER PRIMARY KEY,
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    head BLOB NOT NULL,
    raw_bytes INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'stored', 'bad')),
    UNIQUE (se, incarnation, counter)
);
CREATE INDEX segment_waiting ON segment (id, raw_bytes) WHERE state = 'waiting';
-- Counters below are known, though their rows are gone.
CREATE TABLE spool (
    se TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    known_below INTEGER NOT NULL DEFAULT 0,
    drops_position INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (se, incarnation)
) WITHOUT ROWID;
-- The catalogue: a file of the store that is not here holds nothing that counts.
CREATE TABLE file (
    name TEXT PRIMARY KEY,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX file_time ON file (first_us, last_us);
CREATE TABLE dropped (
    id INTEGER PRIMARY KEY,
    se TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE pull (
    id TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;
-- What one SE has sent of one pull; counted in the transaction that takes the segment.
CREATE TABLE pull_share (
    pull TEXT NOT NULL REFERENCES pull (id) ON DELETE CASCADE,
    se TEXT NOT NULL,
    body BLOB NOT NULL,
    segments INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    raw_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (pull, se)
) WITHOUT ROWID;
