"""The log store's service: when what was received goes in, what is told, and what a question waits for."""

import attrs
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.log_store import (
    GATHER_BYTES,
    GATHER_S,
    RETRY_S,
    UPKEEP_S,
    LogStoreService,
    Reported,
)
from avinet.logs.entries import Segment, StoreFile, Waiting
from avinet.logs.mended import Mended
from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.logs.store.errors import LogStoreFullError
from avinet.logs.store.interface import BadLines, BadSegment, Keeping, Taken, Upkeep
from avinet.logs.store.jobs import Role
from avinet.model.ids import SeId
from avinet.model.logs import LogClass, SegmentHead
from tests.unit.log_store_kit import T0_US, service

SE = SeId("se-1")


class Store:
    """Fires when the test says so."""

    def __init__(self):
        self.takes = []
        self.kept_up = []
        self.started = self.stopped = False
        self.mended = Mended()

    def start(self):
        self.started = True
        return succeed(self.mended)

    def stop(self):
        self.stopped = True
        return succeed(None)

    def take(self):
        self.takes.append(Deferred())
        return self.takes[-1]

    def query(self, query):
        return succeed(Answer(count=5))

    def keep_up(self, keeping):
        self.kept_up.append(keeping)
        return succeed(Upkeep())


@attrs.define
class Waits:
    """A ledger's answers."""

    behind: bool = False

    def last_arrival(self):
        return 7

    def waits(self, arrival):
        return self.behind

    def waiting_totals(self):
        return Waiting(2, 1_000)


def a_segment():
    head = SegmentHead(
        incarnation="0" * 32,
        counter=1,
        service=service(1),
        log_class=LogClass.FULL,
        first_us=T0_US,
        last_us=T0_US,
        records=10,
        raw_bytes=100,
        size=10,
        sha256="0" * 64,
    )
    return Segment(SE, head)


class ServiceTest(SynchronousTestCase):
    def setUp(self):
        self.clock, self.store, self.ledger, self.events = Clock(), Store(), Waits(), []
        reported = Reported(lambda code, *_, **facts: self.events.append((code, facts)), lambda se: "edge")
        self.service = LogStoreService(self.store, self.ledger, Keeping(1, 1), self.clock, execute, reported)
        self.successResultOf(Deferred.fromCoroutine(self.service.start()))
        self.clock.advance(0)
        self.addCleanup(self.assertEqual, [], self.clock.getDelayedCalls())
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.service.stop())))

    def taken(self, **facts):
        self.store.takes[-1].callback(Taken(**facts))
        self.clock.advance(0)

    def ask(self, patience_s=10.0):
        return Deferred.fromCoroutine(self.service.query(Query(), patience_s))

    def test_what_waits_since_the_last_time_goes_in_at_the_start(self):
        self.assertTrue(self.store.started)
        self.assertEqual(1, len(self.store.takes))
        self.taken(segments=3, more=True)
        self.assertEqual(2, len(self.store.takes))
        self.taken(segments=3)
        # One more look, since what did not fit is told by nobody; and none after that.
        self.clock.advance(GATHER_S)
        self.assertEqual(3, len(self.store.takes))
        self.taken(segments=0)
        self.clock.advance(GATHER_S)
        self.assertEqual(3, len(self.store.takes))

    def test_segments_wait_a_moment_for_others(self):
        self.taken()
        self.service.arrived(1_000)
        self.clock.advance(GATHER_S / 2)
        self.service.arrived(1_000)
        self.assertEqual(1, len(self.store.takes))
        self.clock.advance(GATHER_S / 2)
        self.assertEqual(2, len(self.store.takes))

    def test_many_bytes_wait_for_nothing(self):
        self.taken()
        self.service.arrived(GATHER_BYTES)
        self.clock.advance(0)
        self.assertEqual(2, len(self.store.takes))

    def test_what_arrives_meanwhile_goes_in_next(self):
        self.service.arrived(1_000)
        self.taken(segments=1)
        self.clock.advance(GATHER_S)
        self.assertEqual(2, len(self.store.takes))

    def test_a_question_waits_for_what_was_received_before_it(self):
        self.taken()
        self.ledger.behind = True
        self.service.arrived(1_000)
        asked = self.ask()
        self.clock.advance(0)
        self.assertEqual(2, len(self.store.takes))
        self.assertNoResult(asked)
        self.ledger.behind = False
        self.taken(segments=1)
        self.assertEqual((Answer(count=5), None), self.successResultOf(asked))

    def test_a_question_waits_for_a_bounded_time_and_says_what_is_missing(self):
        self.ledger.behind = True
        asked = self.ask(patience_s=3.0)
        self.clock.advance(2.9)
        self.assertNoResult(asked)
        self.clock.advance(0.2)
        self.assertEqual((Answer(count=5), Waiting(2, 1_000)), self.successResultOf(asked))
        self.taken()

    def test_after_an_error_nothing_is_tried_for_a_while_not_even_for_a_question(self):
        self.ledger.behind = True
        asked = self.ask(patience_s=RETRY_S + 2)
        self.store.takes[-1].errback(LogStoreFullError(why="the disk is full"))
        self.clock.advance(RETRY_S - 0.1)
        self.assertEqual(1, len(self.store.takes))
        self.assertEqual(["LOG_INGEST_FAILED"], [code for code, _ in self.events])
        self.assertIn("the disk is full", self.service.trouble)
        self.clock.advance(0.2)
        self.assertEqual(2, len(self.store.takes))
        self.ledger.behind = False
        self.taken(segments=1)
        self.assertEqual(["LOG_INGEST_FAILED", "LOG_INGEST_WELL"], [code for code, _ in self.events])
        self.assertEqual("", self.service.trouble)
        self.successResultOf(asked)

    def test_what_is_bad_is_an_event_of_its_service_engine(self):
        bad = a_segment()
        self.taken(segments=1, bad=(BadSegment(bad, "it ends"),), bad_lines=(BadLines(bad, 3, "no JSON"),))
        self.assertEqual(["LOG_SEGMENT_BAD", "LOG_LINES_BAD"], [code for code, _ in self.events])
        self.assertEqual((10, 3), (self.events[0][1]["records"], self.events[1][1]["lines"]))

    def test_a_file_that_is_lost_is_an_event_with_its_records_and_their_time(self):
        self.service.reported.file_lost(
            StoreFile("2026-11-27/12-1.parquet", 0, 1_000_000, 12, 300), "it is not there"
        )
        ((code, facts),) = self.events
        self.assertEqual(("LOG_FILE_BAD", 12, "it is not there"), (code, facts["records"], facts["reason"]))

    def test_a_list_that_did_not_fit_is_an_event_and_what_a_crash_leaves_is_none(self):
        mended = Mended(why="malformed", aside="ledger.damaged.1", files=3, records=70, unnamed=1)
        self.service.reported.mended(mended)
        self.service.reported.mended(Mended(removed=1))
        self.assertEqual([("LOG_LEDGER_MENDED", {"reason": "malformed", "records": 70})], self.events)
        for said in ("malformed", "ledger.damaged.1", "3 files", "70 records", "1 of them"):
            self.assertIn(said, mended.text)

    def test_a_worker_that_dies_is_an_event(self):
        self.service.reported.died(Role.QUERY, "signal 9.")
        self.assertEqual(["LOG_WORKER_DIED"], [code for code, _ in self.events])

    def test_upkeep_comes_again_and_again(self):
        for _ in range(3):
            self.clock.advance(UPKEEP_S)
        self.assertEqual(3, len(self.store.kept_up))

    def test_stopping_ends_whoever_waits(self):
        self.ledger.behind = True
        asked = self.ask()
        self.successResultOf(Deferred.fromCoroutine(self.service.stop()))
        self.successResultOf(asked)
