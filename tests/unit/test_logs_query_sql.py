"""Queries as SQL: against a real DuckDB in memory, compared with what the language means."""

import re
import statistics
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp, parse_one
from twisted.trial.unittest import SynchronousTestCase

import avinet.logs.query
from avinet.logs.query.duckdb import duckdb_sql
from avinet.logs.query.errors import InvalidShapeError
from avinet.logs.query.expressions import Compare, Op, Within
from avinet.logs.query.fields import FIELDS
from avinet.logs.query.pages import page_of
from avinet.logs.query.parser import parse
from avinet.logs.query.shapes import (
    Count,
    GroupBy,
    Histogram,
    Percentiles,
    Query,
    Records,
    Top,
    Whole,
    aggregates_of,
    fields_of,
    interval_of,
    quantiles_of,
)
from avinet.logs.query.times import show_instant
from tests.unit.log_query_kit import EXPRESSIONS, NASTY, NOW_US, TEXTS, MemoryStore, holds, records

MINUTE_US = 60_000_000


def shown(record):
    """A record as answers have it."""
    return record | {"time": show_instant(record["time"])}


def record(**values):
    """One record; what is not said is not known."""
    return dict.fromkeys(FIELDS) | {"time": NOW_US, "class": "full", "vs_uuid": "v", "se_uuid": "s"} | values


class FilterTests(SynchronousTestCase):
    def setUp(self):
        self.store = MemoryStore()

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=150)
    @given(EXPRESSIONS, st.lists(records(), max_size=12))
    def test_the_engine_finds_what_the_expression_means(self, filter_, rows):
        self.store.fill(rows)
        expected = sum(holds(filter_, row) for row in rows)
        self.assertEqual(self.store.ask(Query(filter=filter_)).count, expected)

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=20)
    @given(st.lists(records(), max_size=12), st.integers(0, 20), st.integers(0, 20))
    def test_a_range_takes_its_first_microsecond_and_not_its_last(self, rows, first, last):
        self.store.fill(rows)
        since, until = NOW_US - first * 500_000, NOW_US - last * 500_000
        expected = sum(since <= row["time"] < until for row in rows)
        self.assertEqual(self.store.ask(Query(since_us=since, until_us=until)).count, expected)

    def test_ipv4_is_in_no_ipv6_network_and_the_other_way_round(self):
        self.store.fill(
            [record(client=client) for client in ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", None, "-")]
        )
        for network, expected in {
            "0.0.0.0/0": 2,
            "::/0": 1,
            "::/64": 0,
            "10.0.0.1": 2,
            "2001:db8::/32": 1,
        }.items():
            found = self.store.ask(Query(filter=Within("client", (network,))))
            self.assertEqual(found.count, expected, network)


class InjectionTests(SynchronousTestCase):
    def setUp(self):
        self.store = MemoryStore()

    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    @given(EXPRESSIONS)
    def test_no_value_is_ever_part_of_the_statement(self, filter_):
        rendered = duckdb_sql(Query(filter=filter_, shape=Records()))
        tree = parse_one(rendered.sql, dialect="duckdb")
        literals = {literal.this for literal in tree.find_all(exp.Literal)}
        self.assertLessEqual(literals, {"", "1000.0"})
        names = {name.this for name in tree.find_all(exp.Placeholder)}
        self.assertEqual(names | set(rendered.parameters), set(rendered.parameters))

    def test_texts_that_would_break_a_statement_are_found_as_they_are(self):
        store = self.store
        store.fill([record(path=text) for text in NASTY])
        for text in NASTY:
            found = store.ask(Query(filter=Compare("path", Op.EQUAL, text), shape=Top(("path",))))
            self.assertEqual(found.results, ({"path": text, "count": 1},))

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
    @given(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
    def test_any_text_comes_back_byte_for_byte(self, texts):
        self.store.fill([record(path=text) for text in texts])
        found = self.store.ask(Query(shape=Top(("path",), 100)))
        self.assertEqual({row["path"] for row in found.results}, set(texts))


class ShapeTests(SynchronousTestCase):
    def setUp(self):
        self.store = MemoryStore()
        self.rows = [
            record(
                time=NOW_US - n * 20_000_000,
                vs="web" if n % 3 else "shop",
                status=500 if n % 5 == 0 else 200,
                duration_ms=float(n),
                bytes_out=n * 10,
                client=f"10.0.0.{n % 4}",
            )
            for n in range(30)
        ]
        self.store.fill(self.rows)

    def ask(self, shape, filter_=""):
        return self.store.ask(Query(filter=parse(filter_, NOW_US).filter, shape=shape))

    def test_count(self):
        self.assertEqual(self.ask(Count()).document(), {"count": 30, "missing": []})
        self.assertEqual(self.ask(Count(), "status=5xx").count, 6)

    def test_top_is_the_most_frequent_with_their_counts(self):
        found = self.ask(Top(("vs",), 1))
        self.assertEqual(found.document(), {"results": [{"vs": "web", "count": 20}], "missing": []})
        self.assertEqual(len(self.ask(Top(("vs", "status"))).results), 4)

    def test_groups_have_the_figures_that_were_asked_for(self):
        figures = aggregates_of(
            "count, sum(bytes_out), avg(duration), p50(duration), max(status), distinct(client), p100(duration)",
            "a",
        )
        found = self.ask(GroupBy(("vs",), figures)).results
        mine = [row for row in self.rows if row["vs"] == "shop"]
        times = [row["duration_ms"] for row in mine]
        self.assertEqual(
            found[1],
            {
                "vs": "shop",
                "count": 10,
                "sum_bytes_out": sum(row["bytes_out"] for row in mine),
                "avg_duration_ms": statistics.mean(times),
                "p50_duration_ms": statistics.median(times),
                "p100_duration_ms": max(times),
                "max_status": 500,
                "distinct_client": 4,
            },
        )

    def test_groups_beyond_the_limit_are_said_to_be_there(self):
        found = self.ask(GroupBy(("duration_ms",), limit=7))
        self.assertEqual((len(found.results), found.truncated), (7, True))
        self.assertFalse(self.ask(GroupBy(("duration_ms",), limit=30)).truncated)

    def test_percentiles_in_all_by_field_and_over_time(self):
        self.assertEqual(
            self.ask(Percentiles("duration_ms", quantiles=(0.5, 0.999))).results,
            ({"count": 30, "p50": 14.5, "p99_9": 28.971},),
        )
        by = self.ask(Percentiles("duration_ms", ("vs",), (0.0, 1.0))).results
        self.assertEqual(by[0], {"vs": "web", "count": 20, "p0": 1.0, "p100": 29.0})
        over = self.ask(Percentiles("duration_ms", (), (0.5,), MINUTE_US)).results
        self.assertEqual(over[-1], {"time": show_instant(NOW_US), "count": 1, "p50": 0.0})
        self.assertEqual(over[-2], {"time": show_instant(NOW_US - MINUTE_US), "count": 3, "p50": 2.0})

    def test_percentiles_of_nothing_are_not_known(self):
        found = self.ask(Percentiles("duration_ms", quantiles=(0.5,)), "vs=none").results
        self.assertEqual(found, ({"count": 0, "p50": None},))

    def test_estimates_are_near_and_say_that_they_are(self):
        query = Query(shape=Percentiles("duration_ms", quantiles=(0.5,)))
        found = self.store.ask(query, approximate=True)
        self.assertTrue(found.approximate)
        self.assertAlmostEqual(found.results[0]["p50"], 14.5, delta=1)
        shape = GroupBy(("vs",), aggregates_of("distinct(client)", "a"))
        self.assertEqual(
            self.store.ask(Query(shape=shape), approximate=True).results[0]["distinct_client"], 4
        )

    def test_a_histogram_counts_by_interval_from_the_epoch(self):
        found = self.ask(Histogram(MINUTE_US))
        self.assertEqual(sum(row["count"] for row in found.results), 30)
        self.assertEqual([row["time"] for row in found.results], sorted(row["time"] for row in found.results))
        by = self.ask(Histogram(10 * MINUTE_US, ("status",)))
        self.assertEqual({row["status"] for row in by.results}, {200, 500})

    def test_whole_records_have_every_field_oldest_first(self):
        rendered = duckdb_sql(Query(shape=Whole()))
        found = self.store.connection.execute(rendered.sql, rendered.parameters)
        self.assertEqual([column[0] for column in found.description], list(FIELDS))
        times = [row[0] for row in found.fetchall()]
        self.assertEqual((len(times), times), (30, sorted(times)))

    def test_queries_go_through_messagepack(self):
        query = Query(
            filter=parse("status>=500 client in ::/0", NOW_US).filter, since_us=5, shape=Records(limit=3)
        )
        self.assertEqual(msgspec.msgpack.decode(msgspec.msgpack.encode(query), type=Query), query)


class PageTests(SynchronousTestCase):
    def setUp(self):
        self.store = MemoryStore()

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=25)
    @given(st.lists(records(), max_size=8), st.integers(1, 4), st.booleans())
    def test_pages_hold_each_record_once_and_in_order(self, rows, size, oldest_first):
        store = self.store
        rows = rows + rows[:3]  # the very same record, so that keys alone cannot tell
        store.fill(rows)
        found, after = [], None
        while True:
            query = Query(shape=Records(size, after, oldest_first))
            answer = store.ask(query)
            found.extend(answer.results)
            self.assertLessEqual(len(answer.results), size)
            if answer.next is None:
                break
            page = page_of(answer.next)
            self.assertEqual(page.oldest_first, oldest_first)
            after = page.place
        times = [row["time"] for row in found]
        self.assertEqual(times, sorted(times, reverse=not oldest_first))
        self.assertEqual(sorted(map(repr, found)), sorted(repr(shown(row)) for row in rows))

    def test_records_that_differ_in_no_key_are_on_one_page_each(self):
        # Enough of them that the engine's order of what is equal depends on where the page begins.
        self.store.fill([record(path=str(n)) for n in range(60)])
        for oldest_first in (True, False):
            found, after = [], None
            while True:
                answer = self.store.ask(Query(shape=Records(3, after, oldest_first)))
                found.extend(row["path"] for row in answer.results)
                if answer.next is None:
                    break
                after = page_of(answer.next).place
            self.assertEqual(sorted(found, key=int), [str(n) for n in range(60)])

    def test_the_longest_keys_that_the_store_keeps_make_a_cursor_that_is_taken_back(self):
        keys = {"request_id": "\U0001f600" * 64, "client": "\U0001f600" * 16, "client_port": 65_535}
        uuid = "00000000-0000-4000-8000-000000000001"
        rows = [record(path=str(n), vs_uuid=uuid, se_uuid=f"se-{uuid}", **keys) for n in range(4)]
        self.store.fill(rows)
        answer = self.store.ask(Query(since_us=1, until_us=NOW_US + 1, shape=Records(3)))
        self.assertEqual(page_of(answer.next).place.shown, 3)

    def test_a_record_that_comes_later_moves_no_page(self):
        store = self.store
        rows = [record(time=NOW_US - n, request_id=str(n)) for n in range(6)]
        store.fill(rows)
        first = store.ask(Query(shape=Records(3)))
        store.fill([record(time=NOW_US + 1), *rows])
        second = store.ask(Query(shape=Records(3, page_of(first.next).place)))
        self.assertEqual([row["request_id"] for row in second.results], ["3", "4", "5"])

    def test_what_is_no_cursor_of_ours_is_refused(self):
        for word in ("", "x", "====", "é", "AAAA", "A" * 5_000, "gA"):
            with self.assertRaises(InvalidShapeError):
                page_of(word)


class WordsTests(SynchronousTestCase):
    def test_words_that_are_no_shape_are_refused_with_what_is_allowed(self):
        for make, text, why in (
            (fields_of, "pth", "Did you mean path?"),
            (fields_of, "", "1 to 5 fields"),
            (fields_of, "time", "by an interval"),
            (fields_of, "vs,se,pool,host,path,method", "1 to 5 fields"),
            (interval_of, "0s", "such as 10s"),
            (interval_of, "500ms", "such as 10s"),
            (interval_of, "soon", "such as 10s"),
            (quantiles_of, "101", "no percentile"),
            (quantiles_of, "nan", "no percentile"),
            (quantiles_of, "", "1 to 10"),
            (aggregates_of, "sum(path)", "is no number"),
            (aggregates_of, "sum", "is none of"),
            (aggregates_of, "pxx(status)", "no percentile"),
            (aggregates_of, "mode(status)", "no function"),
        ):
            with self.assertRaises(InvalidShapeError) as caught:
                make(text, "here")
            self.assertIn(why, str(caught.exception), text)


class EngineTests(SynchronousTestCase):
    def test_only_the_renderer_knows_the_engine(self):
        folder = Path(avinet.logs.query.__file__).parent
        for path in folder.glob("*.py"):
            code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
            knows = re.search("duckdb", code, re.IGNORECASE) is not None
            self.assertEqual(knows, path.name == "duckdb.py", path.name)

    def test_asking_needs_no_sql(self):
        # 9 MB and a quarter of a second that controllers and command lines do without.
        folder = Path(avinet.logs.query.__file__).parent
        makes_sql = {"nodes", "sql", "engine", "duckdb"}
        for path in folder.glob("*.py"):
            imports = re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.MULTILINE)
            uses = any(
                name.startswith("sqlglot") or name.rpartition("logs.query.")[2] in makes_sql
                for name in imports
            )
            self.assertEqual(uses, path.stem in makes_sql, path.name)
