-- Which store this is: SEs remember which one they began a segment with, and peers whose copies they keep.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store TEXT NOT NULL
);
INSERT INTO identity VALUES (1, lower(hex(randomblob(16))));
