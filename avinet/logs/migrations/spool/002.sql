-- With which log stores segments were begun.
CREATE TABLE store (
    id INTEGER PRIMARY KEY,
    controller TEXT NOT NULL,
    store TEXT NOT NULL,
    UNIQUE (controller, store)
);
-- `store` is where a segment is pinned; `was` where it was before, and 0 if that may be anywhere.
ALTER TABLE segment ADD COLUMN store INTEGER;
ALTER TABLE segment ADD COLUMN was INTEGER;
CREATE INDEX segment_begun ON segment (store, was) WHERE store IS NOT NULL;
