-- The spool itself.  Counters go on from `counter`; drops up to `told` may be known upstream and stay as they are.
CREATE TABLE spool (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    incarnation TEXT NOT NULL,
    counter INTEGER NOT NULL,
    told INTEGER NOT NULL
);
-- Segments of an incarnation whose index was lost keep its name, hence the column; counters are unique all the same.
-- A segment is from `place` on in the file of the pack that began with the segment `pack`.
CREATE TABLE segment (
    counter INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL,
    service TEXT NOT NULL,
    log_class TEXT NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    records INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    pack INTEGER NOT NULL,
    place INTEGER NOT NULL
);
CREATE INDEX segment_by_class ON segment (log_class, counter);
CREATE INDEX segment_by_service ON segment (service, counter);
CREATE INDEX segment_by_pack ON segment (pack);
-- How far each of the data plane's files that were begun has been taken in.
CREATE TABLE piece (
    name TEXT PRIMARY KEY,
    taken INTEGER NOT NULL
);
-- What was lost and not yet acknowledged upstream.  `width` is 0 for minutes, 1 for hours, 2 for days, 3 for days of
-- all services; `range_us` is where that begins.
CREATE TABLE loss (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL,
    log_class TEXT NOT NULL,
    service TEXT NOT NULL,
    width INTEGER NOT NULL,
    range_us INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    records INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL
);
CREATE INDEX loss_by_range ON loss (reason, log_class, service, width, range_us);
-- Records lost since the spool was made.
CREATE TABLE lost (
    reason TEXT PRIMARY KEY,
    records INTEGER NOT NULL
);
