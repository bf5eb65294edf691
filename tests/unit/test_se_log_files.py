"""Segments are read without waiting for a disk: from memory as it is, else by a thread first."""

import errno
import os
import tempfile
from pathlib import Path

import attrs
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.spool_lending import SegmentGoneError
from avinet.logs.spool_packs import Place
from avinet.se import log_files
from avinet.se.log_files import OpenRun, SegmentShortError, is_sound
from avinet.units import KIB, MIB
from tests.unit.log_kit import FULL, Fleet


class Reading(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.data = os.urandom(100_000)
        self.path = Path(held.name, "pack")
        self.path.write_bytes(b"before" + self.data + b"behind")
        self.flags = []
        self.open()

    def open(self):
        self.run_ = OpenRun.open([Place(self.path, 6, len(self.data))])
        self.addCleanup(self.run_.close)

    def open_large(self):
        """As if it were more than is read on opening."""
        self.patch(log_files, "SMALL_BYTES", 100)
        self.open()

    def without_nowait(self, why):
        preadv = os.preadv

        def refuse(descriptor, buffers, offset, flags=0):
            self.flags.append(flags)
            if flags:
                raise OSError(why, os.strerror(why))
            return preadv(descriptor, buffers, offset)

        self.patch(log_files.os, "preadv", refuse)

    def read(self, offset, size):
        room = memoryview(bytearray(size))
        got = self.run_.read_into(room, offset)
        return bytes(room[:got])

    def test_takes_what_is_in_memory_from_its_place_in_the_file(self):
        self.assertEqual(self.read(0, 10), self.data[:10])
        self.assertEqual(self.read(99_990, 10), self.data[-10:])

    def test_asks_for_a_thread_when_it_is_not_and_goes_on_with_what_that_has_read(self):
        self.open_large()
        self.without_nowait(errno.EOPNOTSUPP)
        self.assertEqual(self.read(500, 10), b"")
        self.run_.warm(500)
        self.assertEqual(self.read(500, 10), self.data[500:510])
        self.assertEqual(self.read(99_995, 5), self.data[-5:])
        self.assertEqual(sum(map(bool, self.flags)), 1, "asked once whether the file system can say")

    def test_a_small_one_needs_no_thread_but_the_one_that_opened_it(self):
        self.patch(log_files, "SMALL_BYTES", len(self.data))
        self.open()
        self.without_nowait(errno.EOPNOTSUPP)
        self.assertEqual(self.read(99_990, 10), self.data[-10:])

    def test_one_that_is_cut_short_is_let_go_of_at_once(self):
        os.truncate(self.path, 6)
        closed, close = [], os.close

        def closing(descriptor):
            closed.append(descriptor)
            close(descriptor)

        self.patch(log_files.os, "close", closing)
        self.assertRaises(SegmentShortError, self.open)
        self.assertEqual(len(closed), 1)

    def test_waits_for_no_disk(self):
        self.without_nowait(errno.EAGAIN)
        self.assertEqual(self.read(0, 10), b"")
        self.run_.warm(0)

    def test_says_when_the_file_ends_too_soon(self):
        os.truncate(self.path, 50)
        self.run_.warm(0)
        self.assertRaises(SegmentShortError, self.run_.warm, 44)

    def test_segments_side_by_side_are_one_range_and_others_follow(self):
        places = [Place(self.path, 6 + at, 100) for at in (0, 100, 500, 200)]
        self.run_ = OpenRun.open(places)
        self.addCleanup(self.run_.close)
        self.assertEqual((self.run_.count, len(self.run_._ranges), len(self.run_._descriptors)), (4, 3, 1))
        self.assertEqual(self.read(50, 500), self.data[50:200])
        self.assertEqual(self.read(250, 500), self.data[550:600])
        self.assertEqual(self.read(300, 500), self.data[200:300])
        self.assertEqual(self.read(199, 1), self.data[199:200], "back again")

    def test_a_run_of_many_files_is_opened_in_part(self):
        places = []
        for number in range(log_files.MAX_FILES + 3):
            path = self.path.with_name(f"{number}")
            path.write_bytes(b"%d" % number * 10)
            places += [Place(path, 0, 5), Place(path, 5, 5)]
        self.run_ = OpenRun.open(places)
        self.addCleanup(self.run_.close)
        self.assertEqual(self.run_.count, 2 * log_files.MAX_FILES)

    def test_passes_on_what_is_wrong_with_the_disk(self):
        self.without_nowait(errno.EIO)
        self.assertRaises(OSError, self.read, 0, 10)


class Transferring(Fleet):
    def test_brings_all_of_what_was_not_in_memory(self):
        warmed = {}
        read_into, warm = OpenRun.read_into, OpenRun.warm

        def cold(segment, room, offset):
            left = warmed.get(segment, 0) - offset
            return read_into(segment, room[:left], offset) if left > 0 else 0

        def warming(segment, offset):
            warm(segment, offset)
            warmed[segment] = offset + 100 * KIB

        self.patch(OpenRun, "read_into", cold)
        self.patch(OpenRun, "warm", warming)
        self.engine.log_bulk(FULL, 3 * MIB)
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertTrue(warmed)
        self.assert_all_here(FULL)

    def test_a_file_that_cannot_be_read_is_set_aside_and_the_rest_comes(self):
        self.engine.log_bulk(FULL, 200 * KIB)
        self.engine.log_bulk(FULL, 200 * KIB)
        first, second = self.engine.heads()
        read_into = OpenRun.read_into
        bad = self.engine.spool.lending.place(first.name).path.stat().st_ino

        def broken(segment, room, offset):
            one, _ = segment._range(offset)
            if os.fstat(one.descriptor).st_ino == bad:
                raise OSError(errno.EIO, "bad block")
            return read_into(segment, room, offset)

        self.patch(OpenRun, "read_into", broken)
        self.attach()
        self.pump()
        pull = self.pull()
        for _ in range(3):
            self.pump()
            self.clock.advance(2)
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual([one.head for one in self.ledger.waiting(2**62)], [second])
        self.assertEqual(self.engine.spool.totals().drops["corrupt"], first.records)

    def test_what_somebody_can_mend_costs_no_segment(self):
        self.engine.log_bulk(FULL, 20 * KIB)
        (head,) = self.engine.heads()
        opening, broken = OpenRun.open, OSError(errno.EMFILE, "too many open files")

        def fails(places):
            raise broken

        self.attach()
        self.pump()
        pull = self.pull()
        for trouble in (broken, OSError(errno.EACCES, "denied", "/proc/1/nowhere/x.pack")):
            broken = trouble
            self.patch(OpenRun, "open", fails)
            self.pump()
            self.clock.advance(11)
            self.assertEqual(self.engine.heads(), [head])
        self.patch(OpenRun, "open", opening)
        for _ in range(3):
            self.clock.advance(30)
            self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assert_all_here(FULL)

    def test_of_many_that_go_together_the_one_that_cannot_be_opened_is_found(self):
        for _ in range(7):
            self.engine.log_bulk(FULL, 50 * KIB)
        heads = self.engine.heads()
        self.engine.spool.lending.place(heads[4].name).path.unlink()
        self.attach()
        self.pump()
        pull = self.pull()
        for _ in range(3):
            self.pump()
            self.clock.advance(2)
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual([one.head for one in self.ledger.waiting(2**62)], heads[:4] + heads[5:])
        self.assertEqual(self.engine.spool.totals().drops["corrupt"], heads[4].records)
        self.assertEqual(self.engine.spool.lending.lent, set())

    def test_no_file_is_closed_where_that_may_take_long(self):
        self.engine.log_bulk(FULL, 300 * KIB)
        self.attach()
        self.pump()
        inside, closed = [], []
        close = OpenRun.close

        def in_thread(call, *args):
            inside.append(call)
            try:
                return execute(call, *args)
            finally:
                inside.pop()

        def closing(opened):
            closed.append(bool(inside))
            close(opened)

        self.patch(OpenRun, "close", closing)
        bulk = self.engine.shipper_bulk()
        bulk.files = attrs.evolve(bulk.files, in_thread=in_thread)
        self.pull()
        self.pump()
        self.assertEqual(closed, [True])

    def test_a_segment_is_sound_when_its_bytes_are_what_its_head_says(self):
        self.engine.log_bulk(FULL, 2 * MIB)
        (head,) = self.engine.heads()
        place = self.engine.spool.lending.place
        self.assertTrue(is_sound(place, head))

        def gone(name):
            raise SegmentGoneError(name=name)

        self.assertFalse(is_sound(gone, head))
        where = place(head.name)
        with where.path.open("r+b") as file:
            file.seek(where.offset + head.size - 1)
            byte = file.read(1)
            file.seek(where.offset + head.size - 1)
            file.write(bytes([byte[0] ^ 1]))
        self.assertFalse(is_sound(place, head))
