"""The durable event log."""

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import LocalProtocolError
from avinet.model.events import Event, Level
from avinet.store.eventlog import open_event_log
from avinet.store.interface import StoreFullError
from avinet.store.threads import InPlace


def event(number, **facts):
    return Event(id=number, at=1.5, code="X", level=Level.INFO, subject="s", text="t", facts=facts)


class EventLogTests(SynchronousTestCase):
    """Ids go on, old rows go, nothing acknowledged is lost."""

    def setUp(self):
        self.path = Path(self.mktemp())
        self.log = self.open()

    def open(self, **kwargs):
        return self.successResultOf(open_event_log(self.path, Clock(), runner=InPlace(), **kwargs))

    def reopen(self, **kwargs):
        self.successResultOf(self.log.close())
        self.log = self.open(**kwargs)

    def tearDown(self):
        self.successResultOf(self.log.close())

    def ids(self, after=0, limit=1000):
        return [e.id for e in self.successResultOf(self.log.since(after, limit))]

    def append(self, *numbers):
        self.successResultOf(self.log.append([event(n) for n in numbers]))

    def test_an_event_is_read_back_as_it_was(self):
        self.successResultOf(self.log.append([event(1, rtt_ms=80.5, who="é")]))
        self.assertEqual(self.successResultOf(self.log.since(0)), (event(1, rtt_ms=80.5, who="é"),))

    def test_ids_go_on_after_reopening(self):
        self.assertEqual(self.log.last_id(), 0)
        self.append(1, 2)
        self.reopen()
        self.assertEqual((self.log.last_id(), self.ids()), (2, [1, 2]))
        self.append(3)

    def test_a_gap_or_a_repetition_is_a_defect_and_writes_nothing(self):
        self.append(1)
        for numbers in ([3], [1], [2, 4], [2, 2]):
            self.failureResultOf(self.log.append([event(n) for n in numbers]), LocalProtocolError)
        self.assertEqual(self.ids(), [1])

    def test_pages_go_forward(self):
        self.append(*range(1, 8))
        self.assertEqual(self.ids(2, 3), [3, 4, 5])
        self.assertEqual(self.ids(7), [])

    def test_the_oldest_go_and_their_ids_are_not_used_again(self):
        self.reopen(max_events=3)
        self.append(1, 2)
        self.append(3, 4, 5)
        self.assertEqual(self.ids(), [3, 4, 5])
        self.append(*range(6, 16))
        self.reopen()
        self.assertEqual((self.ids(), self.log.last_id()), ([13, 14, 15], 15))

    def test_a_full_disk_is_said_and_the_log_goes_on_when_there_is_room(self):
        self.append(1)
        connection = self.log._connection
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        big = event(2, text="x" * 100_000)
        self.failureResultOf(self.log.append([big]), StoreFullError)
        self.assertEqual((self.ids(), self.log.last_id()), ([1], 1))
        connection.execute("PRAGMA max_page_count = 1000")
        self.successResultOf(self.log.append([big]))
        self.assertEqual(self.ids(), [1, 2])
