"""Batches of segments: broken off at every byte, killed at every step, one of many corrupt, and by whom they are not known."""

import errno
import os

from avinet.controller.log_intake import LogIntake, Threads
from avinet.logs import sending
from avinet.logs.incoming import IncomingLogs, IntakeLimits, Swept
from avinet.logs.incoming_pack import Start
from avinet.logs.receiving import MAX_REFUSED
from avinet.logs.sending import MAX_UNANSWERED
from avinet.logs.store.folders import Folders
from avinet.logs.store.segments import read_segment
from avinet.units import KIB
from avinet.wire import log_messages as m
from tests.unit.log_kit import FULL, Fleet, Held, InThisThread
from tests.unit.log_lines import BASE_US
from tests.unit.test_controller_log_link import DiedError, Links, head_of

SE = "se-9"


class Batched(Links):
    sizes = (5, 1, 7, 4)

    def setUp(self):
        super().setUp()
        self.data = [os.urandom(size) for size in self.sizes]
        self.heads = tuple(head_of(data, counter) for counter, data in enumerate(self.data, 1))
        self.all = b"".join(self.data)

    def batch(self, *counters):
        return m.Batch(heads=tuple(head for head in self.heads if not counters or head.counter in counters))

    def names(self, *counters):
        return [head.name for head in self.heads if head.counter in counters]

    def here(self):
        """What is kept: by counter, each with its bytes as they should be."""
        waiting = self.ledger.waiting(2**62)
        for one in waiting:
            self.assertEqual(self.data_of(one), self.data[one.head.counter - 1])
        return sorted(one.head.counter for one in waiting)

    def assert_goes_on(self, cut):
        """What came whole is kept, of the next one its front, and the rest follows."""
        wire = self.greeted()
        whole, left = 0, cut
        while whole < len(self.data) and left >= len(self.data[whole]):
            left -= len(self.data[whole])
            whole += 1
        kept = list(range(1, whole + 1))
        self.assertEqual(self.here(), kept, cut)
        self.assertEqual(sorted(self.welcome.kept), self.names(*kept), cut)
        self.assertEqual(self.welcome.partials, {self.heads[whole].name: left} if left else {}, cut)
        if left:
            wire.say(m.Begin(head=self.heads[whole], offset=left), self.data[whole][left:])
            whole += 1
        if whole < len(self.data):
            wire.say(self.batch(*range(whole + 1, 9)), b"".join(self.data[whole:]))
        self.assertEqual(self.here(), [1, 2, 3, 4], cut)
        self.assertEqual(sorted(self.acked(wire)), self.names(*(set(range(1, 5)) - set(kept))))
        self.assertEqual(self.refused(wire), [])
        self.assertEqual(list((self.state / "incoming" / SE).iterdir()), [])
        self.assertEqual(self.intake._claims, {})
        self.assertEqual(self.intake.logs._packs, set())
        wire.lose()

    def anew(self):
        """As on the first day."""
        for file in self.state.rglob("*.*"):
            if file.is_file() and not file.name.startswith("ledger"):
                file.unlink()
        for segment in self.ledger.waiting(2**62):
            self.ledger.stored(None, [segment])
        self.data = [os.urandom(size) for size in self.sizes]
        self.heads = tuple(
            head_of(data, counter, incarnation=os.urandom(16).hex())
            for counter, data in enumerate(self.data, 1)
        )
        incarnation = self.heads[0].incarnation
        self.heads = tuple(
            head_of(data, counter, incarnation=incarnation) for counter, data in enumerate(self.data, 1)
        )
        self.all = b"".join(self.data)


class Broken(Batched):
    def test_off_at_any_byte_keeps_what_came_and_no_byte_of_that_comes_again(self):
        for cut in range(len(self.all) + 1):
            wire = self.greeted()
            wire.say(self.batch(), self.all[:cut]) if cut else wire.say(self.batch())
            wire.lose()
            self.assert_goes_on(cut)
            self.anew()

    def test_by_a_kill_of_the_controller_at_any_byte(self):
        for cut in range(len(self.all) + 1):
            wire = self.greeted()
            self.intake.threads = Threads(self.writes, Held())  # what is whole is never entered
            wire.say(self.batch(), self.all[:cut]) if cut else wire.say(self.batch())
            self.ledger.close()
            self.start_controller()
            self.assert_goes_on(cut)
            self.anew()

    def test_by_an_engine_that_leaves_it_is_acknowledged_as_far_as_it_came(self):
        wire = self.greeted()
        wire.say(self.batch(), self.all[:8], m.Leave())
        self.assertEqual(self.acked(wire), self.names(1, 2))
        wire.say(m.Begin(head=self.heads[2], offset=2), self.data[2][2:])
        self.assertEqual(self.acked(wire), self.names(3))

    def test_what_is_not_a_batch_where_one_should_be_is_removed(self):
        folder = self.state / "incoming" / SE
        folder.mkdir(parents=True)
        for number, content in enumerate((b"", b"avi-came", b"avi-came\0\0\0\1\xc1", b"x" * 100)):
            (folder / f"{self.heads[0].name}.1-{number}.pack").write_bytes(content)
        self.greeted().say(self.batch(), self.all)
        self.assertEqual(self.here(), [1, 2, 3, 4])
        self.assertEqual(list(folder.iterdir()), [])

    def test_at_any_step_of_keeping_it_leaves_all_or_nothing(self):
        for step in range(8):
            self.anew()
            left = [step]

            def die(call, left=left):
                def stepped(*args):
                    left[0] -= 1
                    if left[0] < 0:
                        raise DiedError
                    return call(*args)

                return stepped

            logs = self.intake.logs
            pack = logs.pack(SE, Start(self.heads, ""))
            pack.open()
            pack.append(memoryview(self.all))
            pack.finish()
            pack.sync, pack.settle = die(pack.sync), die(pack.settle)
            receive, self.ledger.receive = self.ledger.receive, die(self.ledger.receive)
            try:
                logs.keep([(pack, "")], die(lambda: None))
                died = False
            except DiedError:
                died = True
            finally:
                self.ledger.receive = receive
            fresh = IncomingLogs(self.state, self.ledger, InThisThread(), IntakeLimits(free_bytes=0))
            fresh.sweep()
            # What was whole and in its place is kept, though nobody was told.
            files = list((self.state / "received" / SE).glob("*"))
            self.assertEqual(self.here(), [1, 2, 3, 4] if files else [], step)
            self.assertTrue(died or len(files) == 1, step)
            # Whatever there was on the disk, it can come again.
            again = fresh.pack(SE, Start(self.heads, ""))
            again.want_only(self.ledger.known_of(again.all_segments()))
            if not again.unwanted:
                again.open()
                again.append(memoryview(self.all))
                again.finish()
                fresh.keep([(again, "")])
            self.assertEqual(self.here(), [1, 2, 3, 4])


class Parts(Batched):
    def test_one_that_is_corrupt_is_refused_alone(self):
        wire = self.greeted()
        wire.say(self.batch(), self.all[:7] + bytes([self.all[7] ^ 1]) + self.all[8:])
        self.tick()
        heard = wire.heard()
        acked = [name for one in heard if isinstance(one, m.Ack) for name in one.names]
        refused = [(one.name, one.reason) for one in heard if isinstance(one, m.Refuse)]
        self.assertEqual((acked, refused), (self.names(1, 2, 4), [(self.heads[2].name, "corrupt")]))
        self.assertEqual(self.here(), [1, 2, 4])
        wire.say(m.Begin(head=self.heads[2]), self.data[2])
        self.assertEqual(self.here(), [1, 2, 3, 4])

    def test_one_that_was_first_and_corrupt_may_be_first_again(self):
        wire = self.greeted()
        wire.say(self.batch(), b"wrong" + self.all[5:])
        wire.say(self.batch(1), self.data[0])
        self.assertEqual(self.here(), [1, 2, 3, 4])

    def test_those_that_are_here_are_acknowledged_and_thrown_away(self):
        wire = self.greeted()
        wire.say(self.batch(2, 3), self.data[1] + self.data[2])
        self.acked(wire)
        wire.say(self.batch(), self.all)
        self.assertEqual(sorted(self.acked(wire)), self.names(1, 2, 3, 4))
        self.assertEqual(self.here(), [1, 2, 3, 4])

    def test_of_which_all_is_here_is_acknowledged_before_it_has_come(self):
        wire = self.greeted()
        wire.say(self.batch(), self.all)
        self.acked(wire)
        wire.say(self.batch(), self.all[:3])
        self.assertEqual(self.acked(wire), self.names(1, 2, 3, 4))
        wire.say(self.all[3:9])  # on its way
        wire.say(m.Begin(head=head_of(b"more", 9)), b"more")
        self.assertEqual(self.acked(wire), [head_of(b"more", 9).name])
        self.assertFalse(wire.aborted)

    def test_heads_that_cannot_be_true_are_refused_and_the_others_come(self):
        absurd = head_of(self.data[1], 2, records=2)
        heads = (self.heads[0], absurd, *self.heads[2:])
        wire = self.greeted()
        wire.say(m.Batch(heads=heads), self.all)
        self.assertEqual(self.refused(wire), ["head"])
        self.tick()
        self.assertEqual(self.here(), [1, 3, 4])
        wire.say(m.Batch(heads=(absurd,)), self.data[1])
        self.assertEqual(self.refused(wire), ["head"])
        self.assertFalse(wire.aborted)

    def test_a_place_on_the_disk_that_is_bad_has_all_of_it_sent_again(self):
        wire = self.greeted()
        pack_of = self.intake.logs.pack

        def bad(se, start):
            pack = pack_of(se, start)

            def sync():
                raise OSError(errno.EIO, "bad block")

            pack.sync = sync
            return pack

        self.intake.logs.pack = bad
        wire.say(self.batch(), self.all)
        self.tick()
        self.assertEqual(self.refused(wire), ["again"] * 4)
        self.intake.logs.pack = pack_of
        wire.say(self.batch(), self.all)
        self.assertEqual(self.here(), [1, 2, 3, 4])

    def test_the_file_goes_with_the_last_of_its_segments(self):
        self.greeted().say(self.batch(), self.all)
        waiting = self.ledger.waiting(2**62)
        (file,) = {(SE, one.file) for one in waiting}
        self.assertEqual(self.ledger.stored(None, waiting[:2]), set())
        self.assertEqual(self.intake.logs.sweep(), Swept())
        self.assertEqual(self.ledger.stored(None, waiting[2:3], waiting[3:]), {file})
        self.assertEqual(self.intake.logs.sweep(), Swept(removed=1))

    def test_what_is_set_aside_is_that_segment_alone(self):
        self.greeted().say(self.batch(), self.all)
        (segment,) = [one for one in self.ledger.waiting(2**62) if one.head.counter == 3]
        folders = Folders(self.state)
        folders.set_aside(segment)
        (aside,) = folders.bad.iterdir()
        self.assertEqual((aside.read_bytes(), aside.stat().st_mode & 0o777), (self.data[2], 0o600))
        self.assertEqual(self.here(), [1, 2, 3, 4])


class Hostile(Batched):
    def test_batches_that_break_the_protocol_are_cut_and_leave_nothing(self):
        large = head_of(b"x", 7, size=m.MAX_BATCH_BYTES)
        for what, things in {
            "a segment twice": (m.Batch(heads=self.heads[:1] * 2),),
            "of two spools": (m.Batch(heads=(self.heads[0], head_of(b"x", 9, incarnation="e" * 32))),),
            "too large": (m.Batch(heads=(self.heads[0], large)),),
            "more bytes than there should be": (self.batch(), self.all + b"x"),
            "one that has no answer yet": (self.batch(1, 2), self.all[:6], self.batch(2, 3)),
        }.items():
            wire = self.greeted()
            if what == "one that has no answer yet":
                self.intake.threads = Threads(self.writes, Held())
            wire.say(*things)
            self.assertTrue(wire.aborted, what)
            self.assertEqual(self.intake.bulk_link(SE), None)
            self.tick()

    def test_what_has_no_answer_is_bounded_in_segments_and_in_files(self):
        for each, most in ((2, 2 * MAX_UNANSWERED // (sending.ALONE + 1)), (200, MAX_UNANSWERED)):
            held = Held()
            self.intake.threads = Threads(self.writes, self.commits)
            wire = self.greeted()
            self.intake.threads = Threads(self.writes, held)
            begun = 0
            while not wire.paused:
                begun += self.say_some(wire, 10_000 * each + begun, each)
            self.assertLessEqual(begun, most + each)
            while not wire.aborted:
                begun += self.say_some(wire, 10_000 * each + begun, each)
            self.assertLessEqual(begun, 2 * most + 2 * each)
            while held.let():
                pass

    def say_some(self, wire, counter, count):
        heads = tuple(head_of(b"d", counter + n) for n in range(1, count + 1))
        wire.say(m.Batch(heads=heads), b"d" * count)
        return count

    def test_nothing_but_rubbish_is_cut(self):
        wire = self.greeted()
        for number in range(MAX_REFUSED + 1):
            self.assertFalse(wire.aborted)
            heads = tuple(head_of(b"a", 10 * number + n) for n in range(1, 6))
            wire.say(m.Batch(heads=heads), b"b" * 5)
        self.assertTrue(wire.aborted)
        self.assertEqual(list((self.state / "incoming" / SE).iterdir()), [])

    def test_floods_of_heads_wait(self):
        wire = self.greeted()
        self.intake.threads = Threads(self.writes, self.commits)
        heads = tuple(head_of(b"a", n) for n in range(1, m.MAX_BATCH + 1))
        for _ in range(1_000):
            wire.say(m.Batch(heads=heads), b"a" * len(heads))
            if wire.paused:
                break
        self.assertTrue(wire.paused)
        self.assertFalse(wire.aborted)
        self.tick(1)
        self.assertFalse(wire.paused)


class OnTheWay(Fleet):
    """Both ends."""

    def fill(self, count=40, size=60_000):
        for n in range(count):
            for service in (1, 2, 3):
                self.engine.log_bulk_more(FULL, size, service, BASE_US + n * 1_000)
            self.engine.spooled(FULL)

    def batches(self):
        """Sizes of those that come, in segments."""
        found = []
        pack = self.intake.logs.pack
        self.intake.logs.pack = lambda se, start: found.append(len(start.heads)) or pack(se, start)
        return found

    def test_segments_of_several_packs_come_together(self):
        self.fill(10)
        found = self.batches()
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(sum(found), 30)
        self.assertLess(len(found), 5)
        self.assert_all_here(FULL)

    def test_a_controller_that_does_not_know_them_gets_one_segment_after_another(self):
        self.fill(10)
        found = self.batches()
        welcome = LogIntake.welcome

        def old(intake, link, incarnation):
            return welcome(intake, link, incarnation).addCallback(
                lambda said: m.LogWelcome(partials=said.partials, drops_position=said.drops_position)
            )

        self.patch(LogIntake, "welcome", old)
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(found, [])
        self.assert_all_here(FULL)

    def test_paused_in_the_middle_keeps_what_has_come_and_goes_on_there(self):
        self.fill(20)
        total = sum(head.size for head in self.engine.heads())
        self.attach()
        self.pump()
        pull = self.pull()
        while self.engine.shipper_bulk().sent_bytes < total // 3:
            self.assertTrue(self.step())
        self.done(self.pulls.pause(pull))
        self.pump()
        sent = self.engine.shipper_bulk().sent_bytes
        self.assertLess(sent, total)
        kept = sum(one.head.size for one in self.ledger.waiting(2**62))
        self.assertGreater(kept, 0)
        self.assertLess(sent - kept, max(head.size for head in self.engine.heads()))
        self.done(self.pulls.resume(pull))
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(self.engine.shipper_bulk().sent_bytes, total)
        self.assert_all_here(FULL)

    def test_links_lost_at_any_point_cost_no_byte_that_had_come(self):
        self.fill(12)
        total = sum(head.size for head in self.engine.heads())
        pull = self.pull()
        sent = losses = 0
        while self.state_of(pull) != "done":
            self.attach()
            for _ in range(15 + losses):
                self.step()
            bulk = self.engine.shipper_bulk()
            sent += 0 if bulk is None else bulk.sent_bytes
            if self.state_of(pull) == "done":
                break
            self.lose()
            losses += 1
            self.assertLess(losses, 200)
        self.assertGreater(losses, 3)
        self.assert_all_here(FULL)
        self.assertLess(sent, total + losses * 256 * KIB)

    def test_a_segment_that_rotted_among_others_is_set_aside_and_the_rest_comes(self):
        self.fill(4)
        heads = self.engine.heads()
        place = self.engine.spool.lending.place(heads[5].name)
        with place.path.open("r+b") as file:
            file.seek(place.offset + 1000)
            byte = file.read(1)
            file.seek(place.offset + 1000)
            file.write(bytes([byte[0] ^ 1]))
        self.attach()
        self.pump()
        pull = self.pull()
        for _ in range(3):
            self.pump()
            self.clock.advance(11)
        self.assertEqual(self.state_of(pull), "done")
        arrived = {one.head.counter for one in self.ledger.waiting(2**62)}
        self.assertEqual(arrived, {head.counter for head in heads} - {heads[5].counter})
        self.assertEqual(sum(one.drop.records for one in self.ledger.drops()), heads[5].records)

    def test_what_the_spool_dropped_from_among_others_is_not_waited_for(self):
        self.fill(4)
        gone = self.engine.heads()[4]
        self.attach()
        self.pump()
        pull = self.pull()
        self.engine.spool.acknowledge([gone.name])
        for _ in range(3):
            self.pump()
            self.clock.advance(2)
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(len(self.ledger.waiting(2**62)), 11)
        self.assertEqual(self.engine.spool.lending.lent, set())

    def test_a_slow_pull_is_answered_each_second(self):
        self.fill(12)
        self.attach()
        self.pump()
        pull = self.pull(rate=256 * KIB)
        seen = set()
        while self.state_of(pull) != "done":
            self.clock.advance(0.1)
            self.pump()
            seen.add(len(self.ledger.waiting(2**62)))
            self.assertLess(self.clock.seconds(), 60)
        self.assertGreater(len(seen), 6)
        self.assert_all_here(FULL)

    def test_the_store_reads_each_of_them(self):
        self.fill(3)
        self.attach()
        self.pump()
        self.pull()
        self.pump()
        folders = Folders(self.state)
        for one in self.ledger.waiting(2**62):
            raw = read_segment(folders.segment(one), one.head, one.place.offset)
            self.assertEqual(len(raw), one.head.raw_bytes)
