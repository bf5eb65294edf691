-- Keys are UTF-8 bytes, so that their order is the one every store has.  Revisions and leases are never reused.
CREATE TABLE entry (
    key BLOB NOT NULL PRIMARY KEY,
    value BLOB NOT NULL,
    revision INTEGER NOT NULL,
    created_revision INTEGER NOT NULL,
    lease INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX entry_by_lease ON entry (lease) WHERE lease <> 0;

CREATE TABLE lease (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ttl_s REAL NOT NULL,
    -- In the store's own time, see avinet/store/storetime.py.
    ends_at REAL NOT NULL
);
CREATE INDEX lease_by_end ON lease (ends_at);

-- One row: the store's revision, and where its own time stood when it was last written down.
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    store_s REAL NOT NULL,
    boot_id TEXT NOT NULL,
    boot_s REAL NOT NULL,
    wall_s REAL NOT NULL
);
INSERT INTO state VALUES (1, 0, 0.0, '', 0.0, 0.0);
