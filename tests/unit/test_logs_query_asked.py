"""Questions in words: what goes with what, and what it becomes."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.query.asked import Question, Wanted, query_of, records_of
from avinet.logs.query.errors import InvalidLogQueryError, InvalidShapeError
from avinet.logs.query.expressions import Compare, Op
from avinet.logs.query.pages import Page, cursor_of
from avinet.logs.query.shapes import (
    Aggregate,
    Count,
    Function,
    GroupBy,
    Histogram,
    Percentiles,
    Place,
    Query,
    Records,
    Top,
)
from tests.unit.log_query_kit import NOW_US

MINUTE_US = 60_000_000
HOST = Compare("host", Op.EQUAL, "x")


class QuestionTests(SynchronousTestCase):
    def test_words_become_a_query(self):
        for question, shape in {
            Question(): Count(),
            Question(count=True): Count(),
            Question(top="path", limit=20): Top(("path",), 20),
            Question(top="uri, vs"): Top(("path", "vs"), 10),
            Question(group_by="vs"): GroupBy(("vs",)),
            Question(group_by="vs", figures="p99(latency)"): GroupBy(
                ("vs",), (Aggregate(Function.QUANTILE, "duration_ms", 0.99),)
            ),
            Question(percentiles="duration_ms", by="vs", quantiles="50,99.9"): Percentiles(
                "duration_ms", ("vs",), (0.5, 0.999)
            ),
            Question(percentiles="latency", histogram="1m"): Percentiles(
                "duration_ms", interval_us=MINUTE_US
            ),
            Question(histogram="1m", by="status"): Histogram(MINUTE_US, ("status",)),
        }.items():
            self.assertEqual(query_of(question, NOW_US), Query(shape=shape), question)

    def test_the_filter_and_its_range_come_with_it(self):
        found = query_of(Question(q="host=x since 1m", count=True), NOW_US)
        self.assertEqual(found, Query(filter=HOST, since_us=NOW_US - MINUTE_US, shape=Count()))

    def test_what_does_not_go_together_is_refused_by_name(self):
        for question, where in {
            Question(count=True, top="path"): "top",
            Question(top="path", histogram="1m"): "histogram",
            Question(figures="count"): "figures",
            Question(top="path", by="vs"): "by",
            Question(histogram="1m", quantiles="50"): "quantiles",
            Question(limit=5): "limit",
            Question(top="path", limit=0): "limit",
            Question(top="path", limit=10_001): "limit",
            Question(percentiles="path"): "percentiles",
        }.items():
            with self.assertRaises(InvalidShapeError) as caught:
                query_of(question, NOW_US)
            self.assertEqual(caught.exception.where, where, question)
        with self.assertRaises(InvalidLogQueryError):
            query_of(Question(q="status>>500 nonsense(", count=True), NOW_US)


class RecordsTests(SynchronousTestCase):
    def test_a_page_goes_on_within_the_range_and_the_order_of_the_first(self):
        place = Place(NOW_US, ("s", "v", "", "", ""), 1)
        cursor = cursor_of(Page(place, oldest_first=True, since_us=5, until_us=None))
        found = records_of(Wanted(q="host=x since 1m", limit=7, cursor=cursor), NOW_US)
        self.assertEqual(found, Query(filter=HOST, since_us=5, shape=Records(7, place, oldest_first=True)))

    def test_the_first_page_has_its_own(self):
        found = records_of(Wanted(q="since 1m", oldest_first=True), NOW_US)
        self.assertEqual(
            found, Query(since_us=NOW_US - MINUTE_US, shape=Records(100, None, oldest_first=True))
        )
