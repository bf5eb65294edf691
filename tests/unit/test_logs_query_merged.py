"""Answers of several stores put together are those of one store with all the records, or say that they are estimates."""

import random
from functools import cache

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.query.answers import Answer
from avinet.logs.query.asked import Question, Wanted, query_of, records_of
from avinet.logs.query.exact import MAX_VALUES, value_queries, values_of
from avinet.logs.query.fields import FIELDS
from avinet.logs.query.merged import NotMergeableError, again, has_rows, merged, question
from avinet.logs.query.pages import page_of
from avinet.logs.query.shapes import Count, Records
from tests.unit.log_query_kit import NOW_US, MemoryStore

UNKNOWN = dict.fromkeys(FIELDS)


class Table:
    """A store with these records."""

    def __init__(self, rows):
        self.rows = rows
        self.store = MemoryStore()
        self.store.fill(rows)

    def ask(self, query):
        return self.store.ask(query)


def asked(**words):
    return query_of(Question(**words), NOW_US)


def row(chance, number):
    return UNKNOWN | {
        "time": NOW_US - chance.randrange(600_000_000),
        "vs": chance.choice(["shop", "api", "www"]),
        "status": chance.choice([200, 200, 200, 404, 503]),
        "path": f"/{chance.randrange(40)}",
        "request_id": f"{number:05d}",
        "se_uuid": "se-1",
        "vs_uuid": "vs-1",
        "client": "10.0.0.1",
        "class": "full",
        "client_port": chance.randrange(1024, 65535),
        "bytes_out": chance.randrange(10_000),
        "duration_ms": round(chance.lognormvariate(3, 1), 3),
    }


@cache
def tables():
    """All records in one store, and split up among three."""
    chance = random.Random(5)
    rows = [row(chance, number) for number in range(300)]
    return Table(rows), [Table(rows[start::3]) for start in range(3)]


class MergedCase(SynchronousTestCase):
    """``whole`` has every record, ``parts`` have them split up."""

    def setUp(self):
        self.whole, self.parts = tables()

    values = True
    """Whether values are few enough."""

    def merged(self, query, parts=None):
        parts = parts or self.parts
        answers = [part.ask(question(query)) for part in parts]
        exact = {}
        if self.values and sum(map(has_rows, answers)) > 1:
            for field, wanted in value_queries(query).items():
                exact[field] = values_of(query, field, [part.ask(wanted) for part in parts])
        finer = again(query, answers, exact)
        if finer is not None:
            answers = [part.ask(finer) for part in parts]
        return merged(query, answers, exact)

    def same(self, **words):
        query = asked(**words)
        found, wanted = self.merged(query), self.whole.ask(query)
        self.assertEqual(found.document(), wanted.document())
        return found


class Exact(MergedCase):
    def test_counts(self):
        self.assertEqual(self.same(q="status>=400").count, self.whole.ask(asked(q="status>=400")).count)

    def test_the_most_frequent_values(self):
        self.same(top="path", limit=7)
        self.same(top="vs,status", limit=4)

    def test_sums_and_extremes_of_groups_in_their_order(self):
        self.same(group_by="vs", figures="count,sum(bytes_out),min(bytes_out),max(bytes_out)")
        self.same(group_by="vs,status", figures="sum(bytes_out)", limit=5)

    def test_how_many_over_time(self):
        self.same(histogram="1m")
        self.same(histogram="1m", by="vs", limit=11)

    def close(self, **words):
        query = asked(**words)
        found, wanted = self.merged(query), self.whole.ask(query)
        self.assertFalse(found.approximate)
        self.assertEqual((found.truncated, len(found.results)), (wanted.truncated, len(wanted.results)))
        for one, other in zip(found.results, wanted.results, strict=True):
            self.assertEqual(list(one), list(other))
            for name, value in one.items():
                if isinstance(value, float):
                    self.assertAlmostEqual(value, other[name], places=6, msg=name)
                else:
                    self.assertEqual(value, other[name], name)

    def test_percentiles(self):
        self.close(percentiles="duration_ms", quantiles="0,1,50,90,99,99.9,100")
        self.close(percentiles="status")
        self.close(percentiles="duration_ms", by="vs,status")

    def test_percentiles_over_time(self):
        self.close(percentiles="bytes_out", histogram="1m")
        self.close(percentiles="duration_ms", histogram="1m", by="vs", limit=4)

    def test_figures_of_groups(self):
        self.close(group_by="vs", figures="avg(bytes_out),p50(duration_ms),distinct(path),count,max(status)")
        self.close(group_by="vs,status", figures="distinct(client_port),p99(status)", limit=3)

    def test_what_is_not_known_has_no_quantile_and_is_no_value(self):
        parts = [Table([self.whole.rows[0] | {"duration_ms": None, "server": None}]) for _ in range(2)]
        (row,) = self.merged(asked(percentiles="duration_ms"), parts).results
        self.assertEqual((row["count"], row["p50"]), (2, None))
        (row,) = self.merged(asked(group_by="vs", figures="distinct(server),avg(duration_ms)"), parts).results
        self.assertEqual((row["distinct_server"], row["avg_duration_ms"]), (0, None))

    def test_percentiles_of_what_one_store_alone_has(self):
        empty = [Table([]), Table([])]
        query = asked(percentiles="duration_ms", by="vs")
        found = self.merged(query, [self.whole, *empty])
        self.assertEqual(found.document(), self.whole.ask(query).document())
        self.assertFalse(found.approximate)

    def test_nothing_anywhere(self):
        self.same(q="vs=nowhere", percentiles="duration_ms")
        self.same(q="vs=nowhere", group_by="vs")
        self.same(q="vs=nowhere")


class Estimated(MergedCase):
    values = False

    def test_percentiles_are_within_half_a_percent_of_their_rank(self):
        values = sorted(row["duration_ms"] for row in self.whole.rows)
        found = self.merged(asked(percentiles="duration_ms", quantiles="50,90,99,99.9"))
        self.assertTrue(found.approximate)
        (row,) = found.results
        self.assertEqual(row["count"], len(values))
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
            rank = sum(value <= row[name] for value in values) / len(values)
            self.assertLess(abs(rank - share), 0.01, name)

    def test_percentiles_over_time_by_field_have_the_rows_and_counts_of_one_store(self):
        query = asked(percentiles="duration_ms", histogram="1m", by="vs")
        found, wanted = self.merged(query), self.whole.ask(query)

        def keys(answer):
            return [(row["time"], row["vs"], row["count"]) for row in answer.results]

        self.assertEqual(keys(found), keys(wanted))

    def test_averages(self):
        query = asked(group_by="vs", figures="avg(bytes_out),p50(duration_ms),count")
        found, wanted = self.merged(query), self.whole.ask(query)
        self.assertTrue(found.approximate)
        for one, other in zip(found.results, wanted.results, strict=True):
            self.assertEqual((one["vs"], one["count"]), (other["vs"], other["count"]))
            self.assertAlmostEqual(one["avg_bytes_out"], other["avg_bytes_out"], places=3)
            self.assertLess(abs(one["p50_duration_ms"] / other["p50_duration_ms"] - 1), 0.1)
        self.assertEqual(list(found.results[0]), list(wanted.results[0]))

    def test_different_values_are_not_counted_across_stores(self):
        query = asked(group_by="vs", figures="distinct(path)")
        with self.assertRaises(NotMergeableError):
            self.merged(query)
        self.merged(query, [self.whole, Table([])])


class TooMany(SynchronousTestCase):
    def test_values_beyond_the_bound_are_estimated_and_the_others_exact(self):
        query = asked(group_by="vs", figures="p50(duration_ms),distinct(path)")
        few = Answer(results=({"vs": "a", "path": "/", "count": 1},))
        many = Answer(results=({"vs": "a", "duration_ms": 1.0, "count": 1},) * MAX_VALUES)
        self.assertIsNone(values_of(query, "duration_ms", [many, few]))
        exact = {"path": values_of(query, "path", [few, few])}
        answers = [Answer(results=({"vs": "a", "p50_duration_ms": 1.0, "distinct_path": 1},))] * 2
        finer = again(query, answers, exact)
        self.assertIn("count", {one.name for one in finer.shape.aggregates})
        grid = {"vs": "a", "count": 1, "distinct_path": 1, "p0_duration_ms": 1.0, "p100_duration_ms": 3.0}
        found = merged(query, [Answer(results=(grid,))] * 2, exact)
        self.assertTrue(found.approximate)
        self.assertEqual(found.results[0]["distinct_path"], 1)


class Pages(MergedCase):
    def pages(self, *, oldest_first):
        found, cursor = [], ""
        while True:
            wanted = Wanted(q="status=503", limit=70, cursor=cursor, oldest_first=oldest_first)
            answer = self.merged(records_of(wanted, NOW_US))
            found += [row["request_id"] for row in answer.results]
            if answer.next is None:
                return found
            cursor = answer.next

    def test_every_record_is_on_one_page_in_the_order_of_one_store(self):
        for oldest_first in (False, True):
            wanted = Wanted(q="status=503", limit=1_000, oldest_first=oldest_first)
            whole = [row["request_id"] for row in self.whole.ask(records_of(wanted, NOW_US)).results]
            self.assertEqual(self.pages(oldest_first=oldest_first), whole)

    def test_records_alike_in_every_key_are_all_shown(self):
        twin = {**self.whole.rows[0], "status": 503}
        parts = [Table([twin] * 5), Table([{**twin, "time": twin["time"] - 1}])]
        wanted, seen = Wanted(limit=2), []
        for _ in range(3):
            answer = self.merged(records_of(wanted, NOW_US), parts)
            seen += answer.results
            wanted = Wanted(limit=2, cursor=answer.next or "")
        self.assertEqual(len(seen), 6)
        self.assertIsNone(answer.next)

    def test_a_cursor_has_the_range_of_the_first_page(self):
        query = records_of(Wanted(q="since 5m", limit=3), NOW_US)
        page = page_of(self.merged(query).next)
        self.assertEqual(page.since_us, query.since_us)


class Rows(SynchronousTestCase):
    def test_what_has_no_record_is_told_from_what_has(self):
        self.assertFalse(has_rows(Answer(count=0)))
        self.assertFalse(has_rows(Answer(results=())))
        self.assertFalse(has_rows(Answer(results=({"count": 0, "p50": None},))))
        self.assertTrue(has_rows(Answer(results=({"vs": "a", "sum_bytes_out": 0},))))

    def test_what_each_misses_is_missing(self):
        query = msgspec.structs.replace(asked(), shape=Count())
        one = Answer(count=1, missing=("a",))
        two = Answer(count=2, missing=("b",))
        self.assertEqual(merged(query, [one, two]), Answer(count=3, missing=("a", "b")))
        self.assertIsNone(again(msgspec.structs.replace(query, shape=Records()), [one, two]))
