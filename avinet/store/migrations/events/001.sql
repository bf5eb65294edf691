-- The body is the event as MessagePack; the id stands outside so that a range of ids is a range of rows.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);
-- The newest id survives the removal of old rows, and of all of them.
CREATE TABLE newest (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id INTEGER NOT NULL
);
INSERT INTO newest VALUES (1, 0);
