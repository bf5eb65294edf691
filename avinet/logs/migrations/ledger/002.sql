-- What waits is taken from each service engine in turn, and each has room of its own for what it dropped.
CREATE INDEX segment_waiting_of ON segment (se, id, raw_bytes) WHERE state = 'waiting';
CREATE INDEX dropped_of ON dropped (se, id);
