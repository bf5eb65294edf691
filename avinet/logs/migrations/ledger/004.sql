-- Segments that came together are in one file, named by the first of them that was kept, each from its place on.  The
-- file goes with the last of them that waits.
ALTER TABLE segment ADD COLUMN pack INTEGER;
ALTER TABLE segment ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
CREATE INDEX segment_waiting_in ON segment (pack, se) WHERE state = 'waiting' AND pack IS NOT NULL;
