"""Lines to columns: what is one, what is none, and what is kept of it."""

import json
import tempfile

import pyarrow as pa
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.store.columns import BLOCK_BYTES, MAX_LINE_BYTES, SCHEMA, Columns
from tests.unit.log_store_kit import T0_US, line, record, segment, service


class ColumnsTest(SynchronousTestCase):
    def read(self, raw, **about):
        """(records as dictionaries, [(line, why)])."""
        aside = []
        with tempfile.TemporaryDirectory() as folder:
            table = Columns(lambda bad, why: aside.append((bad, why))).read(
                bytearray(raw), segment(folder, raw, **about)
            )
        if table is None:
            return [], aside
        self.assertEqual(SCHEMA, table.schema)
        table.validate(full=True)
        return table.to_pylist(), aside

    def one(self, **fields):
        rows, aside = self.read(line(**fields))
        self.assertEqual([], aside)
        (row,) = rows
        return row

    def test_a_record_has_what_was_logged_and_who_sent_it(self):
        row = self.one(path="/a?b=c", status=404)
        self.assertEqual("/a?b=c", row["path"])
        self.assertEqual(404, row["status"])
        self.assertEqual("se-1", row["se"])
        self.assertEqual("full", row["class"])
        self.assertEqual(service(1), row["vs_uuid"])
        self.assertEqual(0, row["client_high"])
        self.assertEqual(0xFFFF0A010203, row["client_low"])

    def test_the_time_is_kept_to_the_microsecond(self):
        rows, _ = self.read(line(T0_US + 123_456))
        self.assertEqual("2026-11-27 12:00:00.123456", str(rows[0]["time"]))

    def test_every_text_comes_back_as_it_was(self):
        for text in (
            "/quote'\"",
            "/sql');DROP TABLE logs;--",
            "/new\nline\r\ttab",
            "/nul\x00",
            "/esc\x1b[31m",
            "/\U0001f4a9",
            "/<script>alert(1)</script>",
            "/" + "x" * 100_000,
            "",
        ):
            self.assertEqual(text, self.one(path=text)["path"])

    def test_values_that_do_not_fit_are_null_and_the_record_stays(self):
        for field, value in (
            ("status", "200"),
            ("status", 99_999_999_999_999_999_999_999),
            ("status", -1),
            ("status", 1_000),
            ("status", 200.5),
            ("status", True),
            ("status", [200]),
            ("bytes_out", 2**63),
            ("bytes_out", -5),
            ("client_port", 65_536),
            ("duration_us", -1),
            ("duration_us", 1.5),
            ("duration_us", 1e300),
            ("duration_us", "12"),
            ("duration_us", {"a": 1}),
            ("path", 5),
            ("path", ["/"]),
            ("host", {"a": {"b": [1]}}),
        ):
            row = self.one(**{field: value})
            self.assertIsNone(row[field], (field, value))
            self.assertEqual("GET", row["method"])

    def test_what_pages_are_ordered_by_is_short(self):
        rows, _ = self.read(line(request_id="r" * 257, client="c" * 65) + line(request_id="r" * 256))
        self.assertEqual([None, "r" * 256], [row["request_id"] for row in rows])
        self.assertEqual([None, "10.1.2.3"], [row["client"] for row in rows])

    def test_odd_lines_cost_the_others_nothing_of_what_they_say(self):
        lines = [
            line(T0_US + n, status=200 + n, path=f"/{n}\n\u00e9", tls_version=None, bytes_out=2**53 - n)
            for n in range(9)
        ]
        usual, _ = self.read(b"".join(lines))
        rows, aside = self.read(b"".join(lines) + line(path=1) + line(status="x", duration_us=1e308))
        self.assertEqual(([], usual), (aside, rows[:-2]))
        self.assertEqual([(None, 200), ("/", None)], [(row["path"], row["status"]) for row in rows[-2:]])

    def test_numbers_are_what_they_are_however_they_are_written(self):
        for written, number in (
            (b"2e2", 200),
            (b"2.0E+2", 200),
            (b"-0", 0),
            (b"1e308", None),
            (b"1e999", None),
            (b"2.5", None),
            (b"200." + b"0" * 100, None),
            (b"-1", None),
        ):
            rows, aside = self.read(line().replace(b'"status":200', b'"status":' + written) + line(path=1))
            self.assertEqual(([], number), (aside, rows[0]["status"]), written)

    def test_a_number_that_is_none_is_no_json(self):
        rows, aside = self.read(line().replace(b'"duration_us":12500', b'"duration_us":NaN') + line())
        self.assertEqual((1, 1), (len(rows), len(aside)))

    def test_whole_numbers_may_be_written_with_a_point(self):
        rows, aside = self.read(line().replace(b'"status":200', b'"status":200.0'))
        self.assertEqual(([], 200), (aside, rows[0]["status"]))

    def test_unknown_fields_are_left_out_and_missing_ones_null(self):
        self.assertEqual("GET", self.one(invented={"deep": [[[[1]]]]})["method"])
        raw = json.dumps({"_time": record()["_time"], "_vs": service(1)}).encode() + b"\n"
        rows, aside = self.read(raw)
        self.assertEqual([], aside)
        self.assertIsNone(rows[0]["path"])
        self.assertIsNone(rows[0]["client_low"])

    def test_bad_lines_are_set_aside_and_the_rest_goes_on(self):
        bad = (
            b"garbage\n",
            line()[:50] + b"\n",
            line(vs=2),
            line()[:-2] + b"\n",
            b"[1,2]\n",
            b"null\n",
            line().replace(b"2026-11-27T12", b"yesterday!T12"),
            line().replace(b"2026-11-27T12", b"1926-11-27T12"),
            line().replace(b"2026-11-27T12", b"2926-11-27T12"),
            line().replace(b'"path":"/"', b'"path":"\xff\xfe"'),
            line().replace(b'"path":"/"', b'"path":"\\ud800"'),
            line().replace(b'"path":"/"', b'"path":"a\x00b"'),
            line().replace(b'"_vs":"', b'"_vs":"x'),
            line().replace(b'"path":"/"', b'"path":' + b"[" * 100_000 + b"]" * 100_000),
            line()[:-1] + b" trailing\n",
        )
        for one in bad:
            rows, aside = self.read(line(path="/before") + one + line(path="/after"))
            self.assertEqual(["/before", "/after"], [row["path"] for row in rows], one[:80])
            self.assertEqual([one.rstrip(b"\n")], [kept for kept, _ in aside])

    def test_each_line_is_judged_alone(self):
        rows, aside = self.read(line(path="/1") + line(vs=2) + b"x\n" + line(path="/2"))
        self.assertEqual(["/1", "/2"], [row["path"] for row in rows])
        self.assertEqual(
            [
                "it is of another virtual service",
                "it is no JSON: JSON is malformed: invalid character (byte 0)",
            ],
            [why for _, why in aside],
        )

    def test_a_key_that_is_there_twice_costs_no_other_line(self):
        double = line().replace(b'"status":200', b'"status":200,"status":201')
        rows, aside = self.read(double + line(path="/after"))
        self.assertEqual("/after", rows[-1]["path"])
        self.assertEqual(2, len(rows) + len(aside))

    def test_a_service_that_is_named_twice_is_not_believed(self):
        sly = line().replace(b'"bytes_in"', b'"_vs":"' + service(2).encode() + b'","bytes_in"')
        rows, _ = self.read(sly)
        self.assertEqual({service(1)}, {row["vs_uuid"] for row in rows} | {service(1)})

    def test_long_lines_are_taken_up_to_a_bound(self):
        fits = line(path="/" + "x" * (MAX_LINE_BYTES - 1_000))
        rows, aside = self.read(line() + fits + line())
        self.assertEqual((3, []), (len(rows), aside))
        rows, aside = self.read(line() + line(path="/" + "x" * (BLOCK_BYTES + MAX_LINE_BYTES)) + line())
        self.assertEqual(2, len(rows))
        self.assertEqual(["it is over 1048576 bytes"], [why for _, why in aside])

    def test_blocks_end_where_lines_end(self):
        count = 3 * BLOCK_BYTES // len(line()) + 7
        raw = b"".join(line(T0_US + n, path=f"/{n}") for n in range(count))
        rows, aside = self.read(raw + b"garbage\n")
        self.assertEqual([f"/{n}" for n in range(count)], [row["path"] for row in rows])
        self.assertEqual([b"garbage"], [bad for bad, _ in aside])

    def test_a_last_line_without_its_end_is_a_line(self):
        rows, aside = self.read(line() + line(path="/last")[:-1])
        self.assertEqual(("/last", []), (rows[-1]["path"], aside))

    def test_nothing_but_empty_lines_is_no_record(self):
        self.assertEqual(([], []), self.read(b"\n\n\n"))

    def test_addresses_of_both_kinds_are_numbers_too(self):
        self.assertEqual(0x20010DB8 << 32, self.one(client="2001:db8::1")["client_high"])
        self.assertEqual(1, self.one(client="2001:db8::1")["client_low"])
        row = self.one(client="@/run/envoy.sock")
        self.assertEqual("@/run/envoy.sock", row["client"])
        self.assertIsNone(row["client_high"])


def test_the_schema_is_complete():
    """Every column of the language has a type in the files."""
    assert pa.types.is_timestamp(SCHEMA.field("time").type)
    assert "client_low" in SCHEMA.names
