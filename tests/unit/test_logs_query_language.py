"""The query language: what it reads, what it refuses and where, and its way back to text."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.query.errors import InvalidLogQueryError
from avinet.logs.query.expressions import All, Any, Between, Compare, Has, Not, OneOf, Op, Within
from avinet.logs.query.parser import MAX_DEPTH, MAX_LIST, MAX_PARTS, Asked, parse
from avinet.logs.query.scanner import MAX_QUERY_CHARS
from avinet.logs.query.text import text_of
from tests.unit.log_query_kit import EXPRESSIONS, NOW_US

HOUR_US = 3_600_000_000
ERROR = Compare("status", Op.AT_LEAST, 500)
WEB = Compare("vs", Op.EQUAL, "web")
GET = Compare("method", Op.EQUAL, "GET")

READS = {
    "": None,
    "  ": None,
    "status>=500": ERROR,
    "STATUS >= 500": ERROR,
    "code>=500": ERROR,
    "status=5xx": Between("status", 500, 599),
    "status!=2XX": Not(Between("status", 200, 299)),
    "status>4xx": Compare("status", Op.MORE, 499),
    "status>=4xx": Compare("status", Op.AT_LEAST, 400),
    "status<=4xx": Compare("status", Op.AT_MOST, 499),
    "status in (404, 404)": Compare("status", Op.EQUAL, 404),
    "status in 500,502": OneOf("status", (500, 502)),
    "status not in (404,5xx)": Not(Any((Compare("status", Op.EQUAL, 404), Between("status", 500, 599)))),
    "path~^/api": Compare("path", Op.MATCHES, "^/api"),
    "path !~ ^/(a|b)/": Not(Compare("path", Op.MATCHES, "^/(a|b)/")),
    r'path~"^/a b\"\.c$"': Compare("path", Op.MATCHES, r"^/a b\"\.c$"),
    "(path~^/(a|b) or vs=web)": Any((Compare("path", Op.MATCHES, "^/(a|b)"), WEB)),
    'path="/a \\"b\\"\\n\\x41\\u00e9"': Compare("path", Op.EQUAL, '/a "b"\nAé'),
    "path=/quote'\"": Compare("path", Op.EQUAL, "/quote'\""),
    'path=""': Compare("path", Op.EQUAL, ""),
    "path startswith /api": Compare("path", Op.STARTS, "/api"),
    "path not contains ..": Not(Compare("path", Op.CONTAINS, "..")),
    "host endswith .example": Compare("host", Op.ENDS, ".example"),
    "client in 10.0.0.0/8": Within("client", ("10.0.0.0/8",)),
    "client=10.1.2.3/8": Within("client", ("10.0.0.0/8",)),
    "ip!=::FFFF:10.0.0.1": Not(Within("client", ("10.0.0.1",))),
    "client in (10.0.0.0/8, 2001:DB8::/32)": Within("client", ("10.0.0.0/8", "2001:db8::/32")),
    "client startswith 10.": Compare("client", Op.STARTS, "10."),
    "bytes_out>10KiB": Compare("bytes_out", Op.MORE, 10_240),
    "bytes>1.5MB": Compare("bytes_out", Op.MORE, 1_500_000),
    "duration_ms>250": Compare("duration_ms", Op.MORE, 250.0),
    "latency>1.5s": Compare("duration_ms", Op.MORE, 1_500.0),
    "class=significant": Compare("class", Op.EQUAL, "significant"),
    "has server": Has("server"),
    "not has server": Not(Has("server")),
    "status>=500 vs=web": All((ERROR, WEB)),
    "status>=500 and vs=web && method=GET": All((ERROR, WEB, GET)),
    "status>=500 vs=web or method=GET": Any((All((ERROR, WEB)), GET)),
    "status>=500 (vs=web | method=GET)": All((ERROR, Any((WEB, GET)))),
    "!vs=web": Not(WEB),
    "not (vs=web method=GET)": Not(All((WEB, GET))),
    "not not vs=web": WEB,
    "vs=and and method=or": All((Compare("vs", Op.EQUAL, "and"), Compare("method", Op.EQUAL, "or"))),
}

RANGES = {
    "since 1h": (NOW_US - HOUR_US, None),
    "since 1h30m until now": (NOW_US - HOUR_US * 3 // 2, NOW_US),
    "until 2d": (None, NOW_US - 48 * HOUR_US),
    "since 1970-01-02": (24 * HOUR_US, None),
    "since=1970-01-01T01:00:00Z": (HOUR_US, None),
    "since 1970-01-01T01:00:00.5+01:00": (500_000, None),
    "since 1970-01-01T01:00:00.123456789Z": (HOUR_US + 123_456, None),
    "since 9999w": (0, None),
}

REFUSES = {
    "status>>500 nonsense(": (7, ">> is no operator", ">="),
    "staus=500": (1, "there is no field staus", "status"),
    "vs=web nonsense(": (8, "there is no field nonsense", "vs"),
    "status": (7, "an operator is expected", "="),
    "status 500": (8, "an operator is expected", "="),
    "status=": (8, "a value is expected", ""),
    "status=abc": (8, "whole number", "5xx"),
    "status=-1": (8, "whole number", "5xx"),
    "status=99999999999999999": (8, "whole number", ""),
    "status~5": (7, "not compared by ~", ">="),
    "path>5": (5, "not compared by >", "~"),
    "class=other": (7, "one of 2 words", "full"),
    "class~full": (6, "not compared by ~", "in (...)"),
    "duration_ms>fast": (13, "a length of time", "1.5s"),
    "client=web": (8, "is an IP address", "10.0.0.0/8"),
    "client in (10.0.0.1, web)": (22, "is an IP address", ""),
    "client=fe80::1%eth0": (8, "zone", ""),
    "path~(": (6, "the bracket is not closed", ""),
    "path~a(?=b)": (6, "look-around", ""),
    "path~" + "a" * 1_001: (6, "1000 is the most", ""),
    "path~(a{500}){9}": (6, "repetitions", ""),
    'path~""': (6, "matches everything", ""),
    'path contains ""': (15, "part of every text", ""),
    'path="abc': (6, "the quote is not closed", ""),
    'path="a\\q"': (8, "no escape \\q", "\\n"),
    'path="\\ud800"': (7, "no escape", ""),
    "(vs=web": (1, "the bracket is not closed", ")"),
    "vs=web)": (7, "closed that was not opened", ""),
    "vs=web and": (11, "something is missing", "has FIELD"),
    "vs=web or or vs=web": (11, "cannot stand here", ""),
    "and vs=web": (1, "cannot stand here", ""),
    "status in (500": (11, "the list is not closed", ")"),
    "status in ()": (12, "a value is expected", ""),
    "status in (500 502)": (16, "a comma is expected", ","),
    "time>5": (1, "the time is not compared", "since TIME"),
    "since": (6, "a value is expected", ""),
    "since yesterday": (7, "takes a time", "1h"),
    "since 2026-13-01": (7, "takes a time", "now"),
    "since 2026-11-27T12:00:00": (7, "takes a time", ""),
    "since 1h since 2h": (10, "said twice", ""),
    "since 1h until 2h": (16, "nothing between", ""),
    "(since 1h)": (2, "outside brackets", ""),
    "not since 1h": (5, "outside brackets", ""),
    "vs=web or since 1h": (11, "outside brackets", ""),
    "§": (1, "begins nothing", ""),
    "vs=web ; drop": (8, "begins nothing", ""),
    "vs=\ud800": (4, "half of a character", ""),
}


class ReadingTests(SynchronousTestCase):
    def test_texts_become_expressions(self):
        for text, expected in READS.items():
            self.assertEqual(parse(text, NOW_US), Asked(expected, None, None), text)

    def test_times_become_a_range_wherever_they_stand(self):
        for text, (since, until) in RANGES.items():
            self.assertEqual(parse(text, NOW_US), Asked(None, since, until), text)
            for joined in (f"vs=web {text}", f"{text} vs=web", f"vs=web and {text}", f"{text} and vs=web"):
                self.assertEqual(parse(joined, NOW_US), Asked(WEB, since, until), joined)

    def test_a_malformed_query_is_refused_with_its_place_and_what_is_allowed(self):
        for text, (column, what, allowed) in REFUSES.items():
            with self.assertRaises(InvalidLogQueryError) as caught:
                parse(text, NOW_US)
            error = caught.exception
            self.assertIn(what, str(error), text)
            self.assertEqual(error.column, column, (text, str(error)))
            self.assertIn(allowed, " ".join(error.allowed), text)

    def test_an_error_points_at_its_place(self):
        with self.assertRaises(InvalidLogQueryError) as caught:
            parse("vs=web staus>500", NOW_US)
        lines = str(caught.exception).splitlines()
        self.assertIn("Did you mean status?", lines[0])
        self.assertEqual(lines[1:3], ["| vs=web staus>500", "|        ^"])
        self.assertTrue(lines[3].startswith("Allowed here: time, vs, "), lines[3])

    def test_an_error_shows_only_what_moves_no_cursor(self):
        with self.assertRaises(InvalidLogQueryError) as caught:
            parse("path=\x1b[31m\t\n" + "x" * 500 + " oops", NOW_US)
        shown = str(caught.exception)
        self.assertNotIn("\x1b", shown)
        self.assertLess(max(map(len, shown.splitlines()[1:3])), 80)

    def test_size_depth_and_lists_are_bounded(self):
        deep = "(" * (MAX_DEPTH + 1) + "vs=web" + ")" * (MAX_DEPTH + 1)
        for text, what in (
            (deep, "nests deeper"),
            ("not " * (MAX_DEPTH + 1) + "vs=web", "nests deeper"),
            ("vs=web " * (MAX_PARTS + 1), "comparisons"),
            (f"status in ({','.join(map(str, range(MAX_LIST + 1)))})", "more than"),
            ("x" * (MAX_QUERY_CHARS + 1), "is the most"),
            ("path=" + "x" * 9_000, "is the most"),
        ):
            with self.assertRaises(InvalidLogQueryError) as caught:
                parse(text, NOW_US)
            self.assertIn(what, str(caught.exception))
        parse("(" * MAX_DEPTH + "vs=web" + ")" * MAX_DEPTH, NOW_US)
        parse(f"status in ({','.join(map(str, range(MAX_LIST)))})", NOW_US)


_PIECES = st.sampled_from(
    [
        "status",
        "vs",
        "path",
        "client",
        "in",
        "not",
        "has",
        "and",
        "or",
        "since",
        "until",
        "1h",
        "=",
        "!=",
        ">=",
        "<",
        "~",
        "(",
        ")",
        ",",
        '"',
        "'",
        "\\",
        "500",
        "5xx",
        "10.0.0.0/8",
        "&",
        "!",
        "é",
    ]
)


class EveryTextTests(SynchronousTestCase):
    @given(
        st.text(max_size=60)
        | st.lists(_PIECES, max_size=12).map(" ".join)
        | st.lists(_PIECES, max_size=9).map("".join)
    )
    def test_any_text_is_a_query_or_an_error_with_a_place(self, text):
        try:
            asked = parse(text, NOW_US)
        except InvalidLogQueryError as error:
            self.assertTrue(1 <= error.column <= len(text) + 1, error.column)
            self.assertEqual(str(error).count("\n^"), 0)
            self.assertTrue(all(line.isprintable() for line in str(error).splitlines()[1:3]))
        else:
            again = text_of(asked.filter, asked.since_us, asked.until_us)
            self.assertEqual(parse(again, NOW_US), asked, again)

    @given(EXPRESSIONS, st.none() | st.integers(0, NOW_US), st.none() | st.integers(NOW_US + 1, 2**52))
    def test_expressions_read_back_from_their_text(self, filter_, since, until):
        text = text_of(filter_, since, until)
        self.assertEqual(parse(text, NOW_US), Asked(filter_, since, until), text)
