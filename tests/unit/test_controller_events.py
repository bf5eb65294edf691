"""Events: coalesced, durable before they are seen, bounded."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import events as module
from avinet.controller.events import GATHER_S, RETRY_S, WINDOW_S, Events, MemoryLog
from avinet.model.events import Level
from avinet.store.interface import StoreFullError


class SlowLog(MemoryLog):
    """A log whose writes end when the test says."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def append(self, events):
        done = Deferred()
        done.addCallback(lambda _: self.events.extend(events))
        self.writes.append(done)
        return done


class EventsTests(SynchronousTestCase):
    """One service, one log."""

    def setUp(self):
        self.clock = Clock()
        self.log = MemoryLog()
        self.events = self.make(self.log)

    def make(self, log, gather_s=0.0):
        events = Events(log, self.clock, gather_s, wall=lambda: 1000.0 + self.clock.seconds())
        self.seen = []
        self.cancel = events.follow(self.seen.append)
        return events

    def emit(self, code="SE_UP", subject="se-1", **facts):
        self.events.emit(code, Level.INFO, subject, "It is up.", **facts)

    def told(self):
        return [(e.id, e.code, e.subject, e.count) for e in self.seen]

    def test_an_event_is_told_at_once_with_its_facts(self):
        self.emit(rtt_ms=3)
        (event,) = self.seen
        self.assertEqual((event.id, event.at, event.facts, event.count), (1, 1000.0, {"rtt_ms": 3}, 1))
        self.assertEqual(self.successResultOf(self.events.since(0)), (event,))

    def test_like_events_are_counted_and_told_once_more_when_the_window_ends(self):
        for _ in range(5):
            self.emit(reason="flapping")
        self.assertEqual(len(self.seen), 1)
        self.clock.advance(WINDOW_S)
        self.assertEqual(self.told(), [(1, "SE_UP", "se-1", 1), (2, "SE_UP", "se-1", 4)])
        self.assertIn("4 times", self.seen[1].text)
        self.clock.advance(10 * WINDOW_S)
        self.assertEqual(len(self.seen), 2)

    def test_another_subject_code_or_reason_is_another_event(self):
        self.emit(reason="a")
        self.emit(reason="b")
        self.emit(subject="se-2", reason="a")
        self.emit(code="SE_DOWN", reason="a")
        self.assertEqual([e.id for e in self.seen], [1, 2, 3, 4])

    def test_nobody_sees_an_event_before_it_is_durable(self):
        log = SlowLog()
        self.events = self.make(log)
        self.emit()
        self.assertEqual(self.seen, [])
        log.writes[0].callback(None)
        self.assertEqual(len(self.seen), 1)

    def test_events_that_come_during_a_write_share_the_next(self):
        log = SlowLog()
        self.events = self.make(log)
        for n in range(5):
            self.emit(subject=f"se-{n}")
        self.assertEqual(len(log.writes), 1)
        log.writes[0].callback(None)
        log.writes[1].callback(None)
        self.assertEqual([e.subject for e in self.seen], [f"se-{n}" for n in range(5)])
        self.assertEqual(len(log.writes), 2)

    def test_a_lone_event_is_written_at_once_and_what_follows_it_is_gathered(self):
        log = SlowLog()
        self.events = self.make(log, gather_s=GATHER_S)
        self.emit()
        log.writes[0].callback(None)
        for number in range(2, 5):
            self.emit(subject=f"se-{number}")
        self.clock.advance(GATHER_S / 2)
        self.assertEqual((len(log.writes), self.told()), (1, [(1, "SE_UP", "se-1", 1)]))
        self.clock.advance(GATHER_S / 2)
        self.assertEqual(len(log.writes), 2)
        log.writes[1].callback(None)
        self.assertEqual([one[0] for one in self.told()], [1, 2, 3, 4])
        self.clock.advance(GATHER_S)
        self.emit()
        self.assertEqual(len(log.writes), 3)

    def test_stopping_writes_what_was_being_gathered(self):
        self.events = self.make(self.log, gather_s=GATHER_S)
        self.emit()
        self.emit(subject="se-2")
        self.successResultOf(Deferred.fromCoroutine(self.events.stop()))
        self.assertEqual([one[0] for one in self.told()], [1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ids_go_on_from_the_logs(self):
        self.emit()
        self.events = self.make(self.log)
        self.emit()
        self.assertEqual([e.id for e in self.log.events], [1, 2])

    def test_a_log_that_fails_is_tried_again_and_nothing_is_lost(self):
        log = SlowLog()
        self.events = self.make(log)
        self.emit()
        log.writes[0].errback(StoreFullError(where="events.db", detail="full"))
        self.emit(subject="se-2")
        self.assertEqual((self.seen, len(log.writes)), ([], 1))
        self.clock.advance(RETRY_S)
        log.writes[1].callback(None)
        self.assertEqual([e.id for e in self.seen], [1, 2])

    def test_events_over_the_bound_are_counted_and_the_count_is_an_event(self):
        self.patch(module, "MAX_PENDING", 3)
        log = SlowLog()
        self.events = self.make(log)
        for n in range(10):
            self.emit(subject=f"se-{n}")
        log.writes[0].callback(None)
        while len(log.writes) > 1 and not log.writes[-1].called:
            log.writes[-1].callback(None)
        self.assertEqual([e.id for e in self.seen], [1, 2, 3, 4])
        self.assertEqual((self.seen[-1].code, self.seen[-1].facts), ("EVENTS_DROPPED", {"dropped": 7}))

    def test_events_without_a_reason_are_told_each(self):
        for _ in range(3):
            self.emit()
        self.assertEqual([e.count for e in self.seen], [1, 1, 1])

    def test_windows_are_bounded(self):
        self.patch(module, "MAX_WINDOWS", 10)
        for n in range(50):
            self.emit(subject=f"source-{n}", reason="unknown-key")
            self.emit(subject=f"source-{n}", reason="unknown-key")
        self.assertEqual(len(self.events._windows), 10)
        self.assertEqual(len(self.clock.getDelayedCalls()), 10)
        self.assertEqual(len(self.seen), 90)

    def test_a_subject_that_finds_ever_new_reasons_is_told_of_a_few_and_then_counted(self):
        for number in range(500):
            self.emit(code="SSH_REQUEST_REFUSED", reason=f"port {number}" + "x" * 100_000)
        most = module.MAX_REASONS + 1
        self.assertEqual(len(self.seen), most)
        kept = sum(len(text) for key in self.events._windows for text in key)
        self.assertLess(kept, most * 1_000)
        self.clock.advance(WINDOW_S)
        self.assertEqual(self.seen[-1].count, 500 - most)
        self.assertEqual(self.events._windows, {})
        self.assertFalse(self.events._reasons)
        self.emit(code="SSH_REQUEST_REFUSED", reason="port 9")
        self.assertEqual(self.seen[-1].facts, {"reason": "port 9"})

    def test_a_long_text_is_cut(self):
        self.events.emit("X", Level.ERROR, "s", "a" * 100_000)
        self.assertEqual(len(self.seen[0].text), module.MAX_TEXT)

    def test_facts_are_plain_data_within_bounds(self):
        self.emit(reason="r", path=self, big="a" * 100_000)
        self.emit(reason="s", what=ValueError("v"), names=("a", "b"))
        self.assertEqual(self.seen[0].facts["reason"], "r")
        self.assertGreater(self.seen[0].facts["omitted_bytes"], 100_000)
        self.assertEqual(self.seen[1].facts, {"reason": "s", "what": "v", "names": ["a", "b"]})

    def test_a_follower_that_left_is_not_called(self):
        self.cancel()
        self.cancel()
        self.emit()
        self.assertEqual(self.seen, [])

    def test_a_follower_that_fails_does_not_silence_others(self):
        later = []

        def fail(event):
            raise ZeroDivisionError

        self.events.follow(fail)
        self.events.follow(later.append)
        self.emit()
        self.assertEqual((len(self.seen), len(later)), (1, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopping_tells_what_was_counted_and_leaves_no_timer(self):
        self.emit()
        self.emit()
        self.successResultOf(Deferred.fromCoroutine(self.events.stop()))
        self.assertEqual([e.count for e in self.seen], [1, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_waits_for_the_disk(self):
        log = SlowLog()
        self.events = self.make(log)
        self.emit()
        stopping = Deferred.fromCoroutine(self.events.stop())
        self.assertNoResult(stopping)
        log.writes[0].callback(None)
        self.successResultOf(stopping)
