"""Stores that meet anything in any order: each record that was received is in the answers once."""

import random

from avinet.logs.entries import Arrival
from avinet.logs.incoming import IncomingLogs
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.query.shapes import Query, Top
from avinet.logs.received_head import put_head
from tests.unit.log_store_kit import T0_US, line
from tests.unit.test_logs_store_embedded import KEEPING, CrashError, StoreCase

HOUR_US = 3_600_000_000
WALKS = 2
"""Of some 40 steps; hundreds of them were walked when this was written."""


class WalkTest(StoreCase):
    def setUp(self):
        self.sent = {}
        self.older = []
        super().setUp()

    def opened_ledger(self):
        return open_ledger(self.folder / "ledger.db")

    def start(self, data=None):
        """As after kill -9; with another ledger, and without its log, if ``data`` says which."""
        self.ledger.close()
        path = self.folder / "ledger.db"
        if data is not None:
            path.with_name("ledger.db-wal").unlink(missing_ok=True)
            path.write_bytes(data)
        self.open()
        IncomingLogs(self.folder, self.ledger, None).sweep()

    def step(self, what, chance):
        ledger = self.folder / "ledger.db"
        match what:
            case "receive":
                path, at = f"/{len(self.sent)}", T0_US + chance.randrange(3) * HOUR_US
                kept = self.receive(line(at, path=path), first_us=at, last_us=at)
                with self.folders.segment(kept).open("r+b") as file:
                    put_head(file.fileno(), kept.head)
                self.sent[path] = kept
            case "take":
                self.take()
            case "merge":
                self.now_us += 2 * HOUR_US
                self.successResultOf(self.store.keep_up(KEEPING))
            case "crash":
                self.ledger.stored = self.ledger.replace = self.crash
                (self.store.take() if chance.random() < 0.5 else self.store.keep_up(KEEPING)).addErrback(str)
                self.start()
            case "copy":
                self.start()
                self.ledger.close()
                self.older.append(ledger.read_bytes())
                self.start()
            case "set back":
                self.start(chance.choice([*self.older, b""]))
            case "damage":
                self.ledger.close()
                data = bytearray(ledger.read_bytes())
                at = chance.randrange(0, len(data), 4_096)
                data[at : at + 4_096] = chance.randbytes(4_096)
                self.start(bytes(data))
            case "again":
                again = [
                    Arrival(one) for one in chance.sample(list(self.sent.values()), min(3, len(self.sent)))
                ]
                self.assertFalse(any(self.ledger.receive(again)))

    @staticmethod
    def crash(*_, **__):
        raise CrashError

    def walk(self, seed):
        chance = random.Random(seed)
        steps = [
            *["receive"] * 8,
            *["take"] * 5,
            "merge",
            "merge",
            "crash",
            "copy",
            "set back",
            "damage",
            "again",
        ]
        walked = []
        for _ in range(chance.randrange(20, 60)):
            walked.append(chance.choice(steps))
            self.step(walked[-1], chance)
        while self.take().segments:
            pass
        top = self.successResultOf(self.store.query(Query(shape=Top(("path",), 1_000))))
        found = {row["path"]: row["count"] for row in top.results}
        self.assertEqual(dict.fromkeys(self.sent, 1), found, (seed, walked))
        self.assertEqual(self.listed(), self.on_disk(), (seed, walked))
        self.assertFalse(self.folders.bad.exists(), (seed, walked))

    def test_each_record_is_there_once_whatever_happened(self):
        for seed in range(WALKS):
            self.tearDown()
            self.setUp()
            self.walk(seed)
        self.flushLoggedErrors()
