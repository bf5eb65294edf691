"""A ledger that is damaged anywhere: it is put aside, or what was damaged does not matter, but the controller starts."""

import random

from avinet import sqlite_file
from avinet.errors import AvinetError
from avinet.logs.entries import Arrival, StoreFile
from avinet.logs.ledger_damage import MAX_ASIDE, open_ledger
from avinet.logs.mended import Mended
from avinet.logs.runs import Names
from avinet.model.logs import Drop, DropReason, LogClass
from avinet.sqlite_file import SchemaNewerError
from tests.unit.test_logs_ledger import SE, SPOOL, Case, segment


class DamagedTest(Case):
    def setUp(self):
        super().setUp()
        for n in range(1, 60):
            self.receive(segment(n))
            if n % 2:
                self.ledger.stored(
                    StoreFile(f"2026-11-27/12-{n:08x}-00000000.parquet", 1, 2, 3, 4), [segment(n)]
                )
        self.ledger.put_pull("1", b"\x81\xa1a\x01")
        drop = Drop(reason=DropReason.TORN, log_class=LogClass.FULL, records=3)
        self.ledger.add_drops(SE, SPOOL, 3, [drop], 5)
        self.ledger.note_mended(1, Mended(files=1))
        self.ledger.close()
        self.path = self.folder / "ledger.db"
        self.good = self.path.read_bytes()

    def aside(self):
        return sorted(path.name for path in self.folder.glob("ledger.damaged.*"))

    def opened_with(self, data):
        """Whether there was damage; all that others ask of a ledger works then, whatever it says."""
        self.path.write_bytes(data)
        ledger = open_ledger(self.path)
        try:
            ledger.waiting(2**40)
            ledger.files()
            ledger.drops()
            ledger.pulls()
            ledger.held()
            ledger.mended()
            self.assertEqual([True], ledger.receive([Arrival(segment(5_000))]))
            return ledger.damage is not None
        finally:
            ledger.close()

    def test_one_that_is_whole_is_left_alone(self):
        self.assertFalse(self.opened_with(self.good))
        self.assertEqual([], self.aside())

    def test_one_that_is_made_anew_is_of_the_same_store_as_long_as_its_id_is_there(self):
        ledger = open_ledger(self.path)
        first = ledger.store_id
        ledger.close()
        self.assertTrue(self.opened_with(b"x" * 8_192))
        for kept, same in ((f"{first}\n", True), ("../x", False), (None, False)):
            self.path.unlink()
            kept_in = self.folder / "store.id"
            kept_in.unlink()
            if kept is not None:
                kept_in.write_text(kept)
            ledger = open_ledger(self.path)
            self.assertEqual((ledger.store_id == first, kept_in.read_text()), (same, f"{ledger.store_id}\n"))
            ledger.close()

    def test_one_that_is_cut_zeroed_or_scribbled_on_anywhere_can_be_opened(self):
        chance, found = random.Random(5), []
        for at in range(0, len(self.good), 5 * 4_096):
            found.append(self.opened_with(self.good[: at + 100]))
            for size in (8, 4_096):
                for data in (bytes(size), chance.randbytes(size)):
                    try:
                        self.opened_with(self.good[:at] + data + self.good[at + size :])
                    except SchemaNewerError:
                        self.assertEqual(0, at)
        self.assertTrue(all(found))

    def test_a_damaged_one_is_kept_and_the_last_ones_only(self):
        for n in range(1, MAX_ASIDE + 3):
            self.assertTrue(self.opened_with(b"no database at all" * 500))
            newest = self.folder / f"ledger.damaged.{n}"
            self.assertIn("ledger.db", [path.name for path in newest.iterdir()])
        self.assertEqual([f"ledger.damaged.{n}" for n in range(3, MAX_ASIDE + 3)], self.aside())

    def test_one_of_a_newer_avinet_and_one_in_use_are_not_damaged(self):
        newer = bytearray(self.good)
        newer[60:64] = (1_000).to_bytes(4)
        self.path.write_bytes(newer)
        self.assertRaises(SchemaNewerError, open_ledger, self.path)
        self.path.write_bytes(self.good)
        self.patch(sqlite_file, "LOCK_TIMEOUT_S", 0.01)
        ledger = open_ledger(self.path)
        self.addCleanup(ledger.close)
        self.assertRaises(AvinetError, open_ledger, self.path)
        self.assertEqual([], self.aside())


class KnownTest(Case):
    """Segments that a file told of."""

    def test_they_are_known_wait_no_more_and_are_forgotten_with_their_spool(self):
        self.receive(segment(3))
        name = "2026-11-27/12-00000001-00000000.parquet"
        names = Names.of((SE, SPOOL, n) for n in (1, 2, 3, 7))
        self.ledger.adopt([StoreFile(name, 1, 2, 3, 4)], names)
        self.reopen()
        known = [n for n in range(1, 9) if self.ledger.known(segment(n))]
        self.assertEqual([1, 2, 3, 7], known)
        self.assertEqual([], self.ledger.waiting(2**40))
        self.assertEqual([name], [file.name for file in self.ledger.files()])
        self.assertEqual([False, True], self.receive(segment(7), segment(8)))
        self.ledger.adopt([StoreFile(name + "x", 1, 2, 3, 4)], Names.of([(SE, SPOOL, 4)]), [name])
        self.assertEqual([name + "x"], [file.name for file in self.ledger.files()])
        self.assertTrue(self.ledger.known(segment(2)) and self.ledger.known(segment(4)))
        self.ledger.forget(SE, SPOOL, 8)
        self.assertTrue(all(self.ledger.known(segment(n)) for n in range(1, 9)))
