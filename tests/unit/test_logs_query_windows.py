"""Pages of records by parts of their range: the same records, by less reading."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.query.fields import FIELDS
from avinet.logs.query.pages import page_of
from avinet.logs.query.shapes import Count, Query, Records
from avinet.logs.query.windows import SPANS_US, is_page, of_whole, windows
from tests.unit.log_query_kit import NOW_US, MemoryStore

HOUR_US = 3_600_000_000
KNOWN = dict.fromkeys(FIELDS) | {"class": "full", "vs_uuid": "v", "se_uuid": "s"}
AGES_US = st.lists(st.integers(0, 90 * 24).map(lambda hours: hours * HOUR_US), max_size=8)


class WindowTests(SynchronousTestCase):
    def setUp(self):
        self.store = MemoryStore()

    def page(self, query, rows):
        first = min((row["time"] for row in rows), default=0)
        last = max((row["time"] for row in rows), default=0)
        for part in windows(query, first, last):
            answer = self.store.ask(part)
            if is_page(answer):
                break
        return of_whole(answer, query)

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=15)
    @given(AGES_US, st.integers(1, 4), st.booleans(), st.none() | st.integers(0, 2_000))
    def test_pages_hold_the_same_records_as_without_parts(self, ages, size, oldest_first, since_h):
        rows = [KNOWN | {"time": NOW_US - age, "request_id": str(n)} for n, age in enumerate(ages)]
        self.store.fill(rows)
        since = None if since_h is None else NOW_US - since_h * HOUR_US
        whole = self.store.ask(Query(since_us=since, shape=Records(1_000, None, oldest_first)))
        found, after = [], None
        while True:
            answer = self.page(Query(since_us=since, shape=Records(size, after, oldest_first)), rows)
            found.extend(answer.results)
            if answer.next is None:
                break
            page = page_of(answer.next)
            self.assertEqual((page.since_us, page.until_us), (since, None))
            after = page.place
        self.assertEqual(tuple(found), whole.results)

    def test_the_newest_are_looked_for_in_growing_parts(self):
        query = Query(shape=Records(1))
        parts = list(windows(query, NOW_US - 90 * 24 * HOUR_US, NOW_US))
        self.assertEqual([NOW_US + 1 - part.since_us for part in parts[:-1]], list(SPANS_US))
        self.assertEqual(parts[-1], query)

    def test_short_ranges_and_other_questions_are_asked_whole(self):
        for query in (Query(shape=Records(1), since_us=NOW_US - HOUR_US // 4), Query(shape=Count())):
            self.assertEqual(list(windows(query, 0, NOW_US)), [query])
