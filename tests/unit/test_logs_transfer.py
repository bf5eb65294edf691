"""Logs on their way: pushed and pulled over a real secure channel, broken off anywhere, and each line there once."""

import shutil

from twisted.internet.defer import fail

from avinet.controller.log_intake import Threads
from avinet.logs import sending
from avinet.logs.entries import Arrival
from avinet.logs.incoming import IntakeLimits
from avinet.logs.spool import SpoolLimits
from avinet.model.logs import Drop, DropReason, LogClass
from avinet.units import KIB, MIB
from tests.unit.log_kit import FULL, SIGNIFICANT, Fleet, Held
from tests.unit.log_lines import BASE_US, line, service


class Pushed(Fleet):
    def test_significant_segments_come_by_themselves_and_leave_the_spool(self):
        self.engine.log(SIGNIFICANT, line(1, status=500), line(2, status=503))
        self.engine.spooled()
        self.attach()
        self.pump()
        self.assert_all_here(SIGNIFICANT)
        self.engine.log(SIGNIFICANT, line(1, BASE_US + 9, status=500))
        self.engine.spooled()
        self.pump()
        self.assert_all_here(SIGNIFICANT)

    def test_a_client_that_sends_one_long_path_again_and_again_is_logged_like_any(self):
        path = "/" + "a" * 50_000
        self.engine.log(SIGNIFICANT, *(line(1, BASE_US + n * 50, path=path, status=500) for n in range(100)))
        self.engine.spooled()
        (head,) = self.engine.heads()
        self.assertGreater(head.raw_bytes, 1_000 * head.size)
        self.attach()
        self.pump()
        self.assert_all_here(SIGNIFICANT)

    def test_full_segments_stay_until_somebody_asks(self):
        self.engine.log(FULL, line(1))
        self.engine.spooled()
        self.attach()
        self.pump()
        self.assertEqual(len(self.engine.heads()), 1)
        self.assertEqual(self.received()[FULL], [])

    def test_many_small_segments_share_packets_and_transactions(self):
        for number in range(300):
            self.engine.log(SIGNIFICANT, line(number, status=500))
        self.engine.spooled()
        self.assertEqual(len(self.engine.heads()), 300)
        transactions = []
        receive = self.ledger.receive
        self.ledger.receive = lambda arrivals: transactions.append(len(arrivals)) or receive(arrivals)
        held = Held()
        self.intake.threads = Threads(self.writes, held)
        self.attach()
        self.pump()
        while held.let():
            self.pump()
        self.assert_all_here(SIGNIFICANT)
        self.assertLess(len(transactions), 20)

    def test_what_was_lost_is_told_once(self):
        drop = Drop(reason=DropReason.TORN, log_class=LogClass.FULL, service=service(1), records=7)
        self.engine.spool.note([drop])
        self.attach()
        self.pump()
        self.assertEqual([one.drop for one in self.ledger.drops()], [drop])
        self.lose()
        self.attach()
        self.pump()
        self.engine.spool.note([drop])
        self.clock.advance(11)
        self.pump()
        self.assertEqual(sum(one.drop.records for one in self.ledger.drops()), 14)

    def test_what_the_spool_keeps_is_known(self):
        self.attach()
        self.pump()
        self.engine.log(FULL, line(1), line(1))
        self.engine.spooled()
        self.clock.advance(11)
        self.pump()
        self.assertEqual(self.intake.spools["se-1"].full.records, 2)


class Pulled(Fleet):
    def test_everything_up_to_the_request_comes_and_the_pull_says_so(self):
        self.engine.log_bulk(FULL, 2 * MIB)
        self.attach()
        self.pump()
        self.engine.log(FULL, line(2, BASE_US + 7))  # in no segment yet
        pull = self.pull()
        self.pump()
        self.assert_all_here(FULL)
        view = self.pulls.get(pull)
        self.assertEqual(view.state, "done")
        (share,) = view.shares
        self.assertEqual((share.records, share.records_in_all), (len(self.engine.written[FULL]),) * 2)
        self.assertEqual((share.segments, share.size), (share.segments_in_all, share.size_in_all))

    def test_of_more_than_one_page_of_the_index_waits_for_nothing_between_pages(self):
        self.engine.log(FULL, *(line(number % 600, BASE_US + number) for number in range(600)))
        self.engine.spooled(FULL)
        self.engine.log(FULL, *(line(number % 600, BASE_US + number) for number in range(600)))
        self.engine.spooled(FULL)
        self.attach()
        self.pump()
        begun = self.clock.seconds()
        pull = self.pull()
        self.pump()
        self.assertEqual((self.state_of(pull), self.clock.seconds()), ("done", begun))
        self.assertEqual(self.pulls.get(pull).shares[0].segments, 1_200)

    def test_only_what_was_asked_for_comes(self):
        self.engine.log(FULL, line(1), line(2), line(1, BASE_US + 5_000_000))
        self.engine.spooled()
        self.engine.log(FULL, line(1, BASE_US + 60_000_000))
        self.engine.spooled()
        self.attach()
        self.pump()
        pull = self.pull(services=(service(1),), until_us=BASE_US + 9_000_000)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(self.received()[FULL], [line(1), line(1, BASE_US + 5_000_000)])
        self.assertEqual(len(self.engine.heads()), 2)

    def test_with_nothing_to_send_is_done(self):
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")

    def test_of_significant_logs_too_is_done_when_they_have_come_as_ever(self):
        self.engine.log(SIGNIFICANT, line(1, status=500))
        self.engine.log(FULL, line(1))
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.clock.advance(1.1)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assert_all_here()

    def test_brings_what_there_is_when_the_data_plane_does_not_answer_and_says_so(self):
        self.engine.log(FULL, line(1))
        self.engine.spooled()
        self.engine.flush = lambda: fail(ValueError("it does not answer"))
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        (share,) = self.pulls.get(pull).shares
        self.assertEqual((share.state, share.unflushed), ("done", "it does not answer"))
        self.assert_all_here(FULL)

    def test_for_an_engine_that_is_not_here_waits_for_it(self):
        self.engine.log_bulk(FULL, 100 * KIB)
        pull = self.pull()
        self.assertEqual(self.state_of(pull), "waiting")
        self.attach()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assert_all_here(FULL)

    def test_with_a_byte_limit_leaves_the_rest_and_says_so(self):
        for _ in range(4):
            self.engine.log_bulk(FULL, 300 * KIB)
        size = self.engine.heads()[0].size
        self.attach()
        self.pump()
        pull = self.pull(byte_limit=2 * size + size // 2)
        self.pump()
        (share,) = self.pulls.get(pull).shares
        self.assertEqual((share.state, share.segments, share.limited), ("done", 2, True))
        self.assertEqual(len(self.engine.heads()), 2)

    def test_is_held_to_its_rate(self):
        self.engine.log_bulk(FULL, 2 * MIB)
        size = self.engine.heads()[0].size
        self.attach()
        self.pump()
        pull = self.pull(rate=256 * KIB)
        began = self.clock.seconds()
        while self.state_of(pull) != "done":
            self.clock.advance(0.05)
            self.pump()
        self.assertGreater(self.clock.seconds() - began, size / (256 * KIB) * 0.8)
        self.assertLess(self.clock.seconds() - began, size / (256 * KIB) * 1.5)

    def test_paused_stops_in_the_middle_of_a_segment_and_resumed_goes_on_there(self):
        pull, head = self.half_sent(4 * MIB)
        self.done(self.pulls.pause(pull))
        self.pump()
        sent = self.engine.shipper_bulk().sent_bytes
        self.assertLess(sent, head.size)
        self.assertEqual(self.state_of(pull), "paused")
        self.clock.advance(60)
        self.pump()
        self.assertEqual(self.engine.shipper_bulk().sent_bytes, sent)
        self.done(self.pulls.resume(pull))
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual(self.engine.shipper_bulk().sent_bytes, head.size)
        self.assert_all_here(FULL)

    def test_cancelled_ends_for_good_and_the_next_one_takes_up_what_had_come(self):
        pull, head = self.half_sent(4 * MIB)
        self.done(self.pulls.cancel(pull))
        self.pump()
        self.assertEqual(self.state_of(pull), "cancelled")
        self.assertEqual(self.received()[FULL], [])
        again = self.pull()
        self.pump()
        self.assertEqual(self.state_of(again), "done")
        self.assertEqual(self.engine.shipper_bulk().sent_bytes, head.size)
        self.assert_all_here(FULL)

    def test_of_many_engines_get_on_side_by_side_and_no_more_than_some_at_once(self):
        engines = [self.engine, *(self.add_engine(number) for number in range(2, 13))]
        for engine in engines:
            engine.log_bulk(FULL, 600 * KIB)
            self.attach(engine)
        self.pump(*engines)
        pull = self.pull(*engines)
        seen = set()
        while self.state_of(pull) != "done":
            for engine in engines:
                self.step(1, engine)
            states = [share.state for share in self.pulls.get(pull).shares]
            seen.add(states.count("running"))
            self.clock.advance(0.01)
        self.assertEqual(max(seen), 8)
        for engine in engines:
            self.assert_all_here(FULL, engine=engine)


class Broken(Fleet):
    """Links that are lost, and processes that end, at any point."""

    def test_links_lost_at_any_point_cost_no_byte_that_had_come(self):
        self.engine.log_bulk(FULL, 3 * MIB)
        self.engine.log_bulk(FULL, 50 * KIB)
        total = sum(head.size for head in self.engine.heads())
        pull = self.pull()
        sent = losses = 0
        while self.state_of(pull) != "done":
            self.attach()
            for _ in range(15 + losses):
                self.step()
            bulk = self.engine.shipper_bulk()
            if self.state_of(pull) == "done":
                sent += bulk.sent_bytes
                break
            sent += 0 if bulk is None else bulk.sent_bytes
            self.lose()
            losses += 1
            self.assertLess(losses, 200)
        self.assertGreater(losses, 3)
        self.assert_all_here(FULL)
        # What was on its way when the link was lost is sent again, and no more than that.
        self.assertLess(sent, total + losses * 256 * KIB)

    def test_a_lost_acknowledgement_costs_no_second_copy(self):
        self.engine.log_bulk(FULL, 1 * MIB)
        self.attach()
        self.pump()
        self.pull()
        while not self.ledger.waiting(2**62):
            self.assertTrue(self.step())
        self.lose()
        self.assertEqual(len(self.engine.heads()), 1)
        self.attach()
        self.pump()
        self.assert_all_here(FULL)
        (share,) = self.pulls.get(1).shares
        self.assertEqual((share.segments, share.segments_in_all), (1, 1))
        # Known from its head, so that most of it was not even sent.
        self.assertLess(self.engine.shipper_bulk().sent_bytes, self.ledger.waiting(1)[0].head.size)

    def test_a_controller_that_starts_anew_goes_on(self):
        pull, head = self.half_sent(6 * MIB)
        self.engine.pipe.client_end.sent.clear()
        self.lose()
        self.ledger.close()
        self.start_controller()
        self.assertEqual(self.state_of(pull), "waiting")
        self.attach()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertLess(self.engine.shipper_bulk().sent_bytes, head.size * 0.9)
        self.assert_all_here(FULL)
        (share,) = self.pulls.get(pull).shares
        self.assertEqual(share.records, len(self.engine.written[FULL]))

    def test_an_engine_that_starts_anew_goes_on(self):
        pull, head = self.half_sent(6 * MIB)
        self.lose()
        self.engine.open_again()
        self.attach()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertLess(self.engine.shipper_bulk().sent_bytes, head.size * 0.9)
        self.assert_all_here(FULL)

    def test_what_is_damaged_where_it_waited_is_sent_anew(self):
        pull, _ = self.half_sent(4 * MIB)
        self.lose()
        (part,) = (self.state / "incoming" / "se-1").iterdir()
        data = bytearray(part.read_bytes())
        data[100] ^= 1
        part.write_bytes(data)
        self.attach()
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assert_all_here(FULL)

    def test_what_the_spool_dropped_meanwhile_is_not_waited_for(self):
        self.engine.log_bulk(FULL, 1 * MIB)
        self.engine.log_bulk(FULL, 1 * MIB)
        first, second = self.engine.heads()
        self.attach()
        self.pump()
        pull = self.pull()
        self.engine.spool.acknowledge([second.name])
        self.pump()
        self.clock.advance(2)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual([one.head for one in self.ledger.waiting(2**62)], [first])

    def test_what_is_being_sent_when_room_is_made_arrives_and_is_not_counted_as_lost(self):
        for n in range(50):
            self.engine.log_bulk(FULL, 60_000, at_us=BASE_US + n * 1_000)
        self.attach()
        self.pump()
        pull, spool = self.pull(), self.engine.spool
        while not self.engine.shipper_bulk().sent_bytes:
            self.assertTrue(self.step())
        spool.set_limits(SpoolLimits(max_segments=30))
        spool.enforce()
        self.pump()
        self.clock.advance(2)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        lost = spool.totals().drops[DropReason.SPOOL_FULL]
        received = self.received()[FULL]
        self.assertEqual((lost, len(received)), (20 * 20, 30 * 20))
        self.assertEqual(self.engine.heads(), [])
        self.assertEqual(spool.lending.lent, set())

    def test_a_channel_that_ends_leaves_nothing_lent(self):
        for n in range(40):
            self.engine.log_bulk(FULL, 60_000, at_us=BASE_US + n * 1_000)
        self.attach()
        self.pump()
        pull = self.pull()
        while not self.engine.shipper_bulk().sent_bytes:
            self.assertTrue(self.step())
        self.assertGreater(len(self.engine.spool.lending.lent), 10)
        self.done(self.pulls.pause(pull))
        self.pump()
        self.assertEqual(self.engine.spool.lending.lent, set())
        self.done(self.pulls.resume(pull))
        while not self.engine.spool.lending.lent:
            self.assertTrue(self.step())
        self.lose()
        self.assertEqual(self.engine.spool.lending.lent, set())

    def test_a_segment_that_rotted_in_the_spool_is_set_aside_and_the_rest_comes(self):
        self.engine.log_bulk(FULL, 1 * MIB)
        self.engine.log_bulk(FULL, 1 * MIB)
        first, second = self.engine.heads()
        place = self.engine.spool.lending.place(first.name)
        with place.path.open("r+b") as file:
            file.seek(place.offset + 1000)
            byte = file.read(1)
            file.seek(place.offset + 1000)
            file.write(bytes([byte[0] ^ 1]))
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.clock.advance(11)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual([one.head for one in self.ledger.waiting(2**62)], [second])
        self.assertEqual([one.drop.reason for one in self.ledger.drops()], [DropReason.CORRUPT])

    def test_a_spool_that_is_set_back_to_an_older_copy_loses_nothing_of_what_is_new(self):
        def drop(number):
            self.engine.spool.note(
                [Drop(reason=DropReason.TORN, log_class=FULL, first_us=number * 10**9, records=number)]
            )

        def attached():
            self.attach()
            for _ in range(2):
                self.pump()
                self.clock.advance(11)
            self.pump()

        copy = self.folder / "copy"
        self.engine.log_bulk(SIGNIFICANT, 100 * KIB)
        drop(1)
        attached()
        self.lose()
        self.engine.spool.close()
        shutil.copytree(self.engine.folder, copy)
        self.engine.open()
        for number in (2, 3):
            self.engine.log_bulk(SIGNIFICANT, 100 * KIB)
            drop(number)
        attached()
        self.lose()
        self.engine.spool.close()
        shutil.rmtree(self.engine.folder)
        copy.rename(self.engine.folder)
        self.engine.open()
        self.engine.log_bulk(SIGNIFICANT, 100 * KIB)
        drop(4)
        attached()
        self.engine.log_bulk(SIGNIFICANT, 100 * KIB)
        drop(5)
        self.engine.shipper.new_segments()
        self.clock.advance(11)
        self.pump()
        self.assert_all_here(SIGNIFICANT)
        self.assertEqual([one.drop.records for one in self.ledger.drops()], [1, 2, 3, 4, 5])

    def test_a_segment_whose_file_is_gone_is_lost_and_the_rest_comes(self):
        self.engine.log_bulk(FULL, 1 * MIB)
        self.engine.log_bulk(FULL, 1 * MIB)
        self.engine.log_bulk(SIGNIFICANT, 1 * MIB)
        first, second, significant = self.engine.heads()
        for gone in (first, significant):
            self.engine.spool.lending.place(gone.name).path.unlink()
        self.attach()
        self.pump()
        pull = self.pull()
        for _ in range(3):
            self.pump()
            self.clock.advance(11)
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assertEqual([one.head for one in self.ledger.waiting(2**62)], [second])
        self.assertEqual(
            {(one.drop.log_class, one.drop.records) for one in self.ledger.drops()},
            {(FULL, first.records), (SIGNIFICANT, significant.records)},
        )


class Full(Fleet):
    """A disk, or a quota, that has no more room."""

    def setUp(self):
        super().setUp()
        self.patch(sending, "MAX_BATCH_BYTES", MIB)

    limits = IntakeLimits(free_bytes=0, per_se_bytes=1_200 * KIB)

    def test_quotas_stop_the_reading_and_lose_nothing(self):
        for _ in range(4):
            self.engine.log_bulk(FULL, 700 * KIB)
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        held = len(self.ledger.waiting(2**62))
        self.assertLess(held, 4)
        self.assertEqual(self.events, ["LOG_STORE_FULL"])
        self.assertEqual(self.state_of(pull), "running")
        while self.state_of(pull) != "done":
            for one in self.ledger.waiting(2**62):
                self.ingest(one)
            self.clock.advance(6)
            self.pump()
        self.assertEqual(self.engine.heads(), [])
        for one in self.ledger.waiting(2**62):
            self.ingest(one)
        self.assertEqual(sorted(self.ingested), sorted(self.engine.written[FULL]))
        self.clock.advance(31)
        self.assertIn("LOG_STORE_WELL", self.events)

    def test_a_link_that_is_held_up_ends_with_its_channel_and_the_next_goes_on(self):
        for _ in range(8):
            self.engine.log_bulk(FULL, 700 * KIB)
        self.attach()
        self.pump()
        pull = self.pull()
        self.pump()
        self.assertEqual(self.state_of(pull), "running")
        self.engine.shipper_bulk().transport.loseConnection()
        self.pump()
        self.assertIs(self.intake.bulk_link(self.engine.se), None)
        self.assertEqual(self.intake._claims, {})
        while self.state_of(pull) != "done":
            for one in self.ledger.waiting(2**62):
                self.ingest(one)
            self.clock.advance(6)
            self.pump()
        for one in self.ledger.waiting(2**62):
            self.ingest(one)
        self.assertEqual(sorted(self.ingested), sorted(self.engine.written[FULL]))


class NoRoom(Fleet):
    """A disk that is full for everybody."""

    def test_all_are_told_to_wait_and_go_on_when_there_is_room(self):
        logs, other = self.intake.logs, self.add_engine(2)
        logs.limits = IntakeLimits(free_bytes=2**62)
        for engine in (self.engine, other):
            engine.log_bulk(SIGNIFICANT, 4 * MIB)
            self.attach(engine)
            self.pump(engine)
        self.assertEqual(self.events, ["LOG_STORE_FULL"])
        self.assertEqual(self.ledger.waiting(2**62), [])
        late = self.add_engine(3)
        late.log_bulk(SIGNIFICANT, 4 * MIB)
        self.attach(late)
        self.pump(late)
        for engine in (self.engine, other, late):
            self.assertLess(engine.shipper_live().sent_bytes, 4 * MIB)
        self.assertTrue(late.shipper_live().sending.held)
        self.assertLess(late.shipper_live().sent_bytes, MIB)
        logs.limits = IntakeLimits(free_bytes=0)
        for _ in range(10):
            self.clock.advance(6)
            for engine in (self.engine, other, late):
                self.pump(engine)
        for engine in (self.engine, other, late):
            self.assert_all_here(SIGNIFICANT, engine=engine)
        self.assertEqual(self.events, ["LOG_STORE_FULL", "LOG_STORE_WELL"])


class LedgerLost(Fleet):
    """What had been received and acknowledged, and waited for the store."""

    def setUp(self):
        super().setUp()
        for number in range(20):
            self.engine.log(FULL, line(number))
            self.engine.log(SIGNIFICANT, line(number, status=500))
        self.engine.spooled()
        self.attach()
        self.pump()
        for _ in range(2):
            self.pull()
            self.pump()
            self.engine.log_bulk(FULL, 100 * KIB)
        self.pull()
        self.pump()
        self.assert_all_here()
        self.lose()

    def damage_ledger(self):
        self.ledger.close()
        (self.state / "ledger.db").write_bytes(b"no database" * 1_000)

    def files(self):
        return sorted((self.state / "received" / self.engine.se).iterdir())

    def test_is_found_in_its_files_each_as_it_was_and_comes_no_second_time(self):
        before = {(one.head, one.place) for one in self.ledger.waiting(2**62)}
        self.assertEqual({".zst", ".pack"}, {path.suffix for path in self.files()})
        self.damage_ledger()
        self.start_controller()
        self.flushLoggedErrors()
        found = self.ledger.waiting(2**62)
        self.assertEqual(before, {(one.head, one.place) for one in found})
        self.assert_all_here()
        self.assertIn("LOG_SEGMENTS_FOUND", self.events)
        self.assertEqual([False] * len(found), self.ledger.receive([Arrival(one) for one in found]))
        self.events.clear()
        self.ledger.close()
        self.start_controller()
        self.assertEqual([], self.events)

    def test_is_not_believed_where_it_is_not_what_it_says(self):
        self.damage_ledger()
        files = self.files()
        for path in files:
            data = bytearray(path.read_bytes())
            if path.suffix == ".zst":
                data[0] ^= 1
            else:
                data[:8] = b"no batch"
            path.write_bytes(data)
        self.start_controller()
        self.flushLoggedErrors()
        self.assertEqual(([], []), (self.ledger.waiting(2**62), self.files()))
        self.assertIn("LOG_SEGMENTS_FOUND", self.events)
        self.assertEqual(len(files), len(list((self.state / "bad").iterdir())))

    def test_in_a_batch_is_found_without_the_one_that_is_not_what_it_says(self):
        count = len(self.ledger.waiting(2**62))
        self.damage_ledger()
        pack = next(path for path in self.files() if path.suffix == ".pack")
        data = bytearray(pack.read_bytes())
        data[-1] ^= 1
        pack.write_bytes(data)
        self.start_controller()
        self.flushLoggedErrors()
        self.assertEqual(count - 1, len(self.ledger.waiting(2**62)))
