"""NDJSON is taken apart by virtual service, and what is no line is told apart."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.split import DROP_RANGE_US, parts, split
from avinet.model.logs import DropReason, LogClass
from tests.unit.log_lines import BASE_US, line, service

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


def taken(data, *, final=True, copied=1 << 20):
    """(by service: the bytes, drops by reason, consumed)."""
    found = split(data, LogClass.FULL, final=final)
    by_service = {}
    for part in parts(data, found.lines, copied):
        joined = b"".join(map(bytes, part.slices))
        assert len(joined) == part.raw_bytes
        assert joined.count(b"\n") == part.records
        by_service[part.service] = joined
    drops = Counter()
    for drop in found.drops:
        drops[drop.reason] += drop.records
    return by_service, dict(drops), found.consumed


class Splitting(SynchronousTestCase):
    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**50), TEXT), max_size=60),
        st.integers(1, 3000),
    )
    def test_each_services_lines_come_out_as_they_went_in(self, wanted, copied):
        lines = [(number, line(number, at, path=text, braces="{}{")) for number, at, text in wanted]
        by_service, drops, consumed = taken(b"".join(text for _, text in lines), copied=copied)
        expected = {}
        for number, text in lines:
            expected[service(number)] = expected.get(service(number), b"") + text
        self.assertEqual(by_service, expected)
        self.assertEqual((drops, consumed), ({}, sum(len(text) for _, text in lines)))

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 3), TEXT), min_size=1, max_size=12), st.data())
    def test_cut_anywhere_the_whole_lines_come_out_and_the_rest_is_torn(self, wanted, data):
        lines = [line(number, path=text) for number, text in wanted]
        whole = b"".join(lines)
        at = data.draw(st.integers(0, len(whole)))
        kept = whole[:at].count(b"\n")
        by_service, drops, consumed = taken(whole[:at])
        self.assertEqual(sum(text.count(b"\n") for text in by_service.values()), kept)
        self.assertEqual(drops, {DropReason.TORN: 1} if at and whole[at - 1 : at] != b"\n" else {})
        self.assertEqual(consumed, at)
        # While more may follow, what is no line yet is left.
        _, drops, consumed = taken(whole[:at], final=False)
        self.assertEqual((drops, consumed), ({}, whole[:at].rfind(b"\n") + 1))

    def test_times_are_those_of_the_requests(self):
        data = line(1, BASE_US + 5) + line(2, 7) + line(1, BASE_US + 1) + line(1, BASE_US + 3)
        found = split(data, LogClass.FULL, final=True)
        spans = {part.service: (part.first_us, part.last_us) for part in parts(data, found.lines, 1000)}
        self.assertEqual(spans, {service(1): (BASE_US + 1, BASE_US + 5), service(2): (7, 7)})

    def test_a_line_that_begins_in_the_middle_of_another_is_kept(self):
        torn = line(1, path="/x" * 100)[:-20]
        by_service, drops, _ = taken(line(2) + torn + line(3) + b"{" + line(4))
        self.assertEqual(by_service, {service(2): line(2), service(3): line(3), service(4): line(4)})
        self.assertEqual(drops, {DropReason.TORN: 2})

    def test_what_a_client_sends_is_no_head(self):
        odd = line(1, path='{"_time":"', user_agent='\n{"_time":"2026-11-27T12:00:00.123456Z","_vs":"x"}\n')
        self.assertEqual(taken(odd), ({service(1): odd}, {}, len(odd)))

    def test_lines_that_do_not_begin_as_lines_are_corrupt(self):
        good = line(1)
        bad = [
            b"\x00" * 300 + b"\n",
            b"[1]\n",
            b'{"_vs":"x"}' + b" " * 200 + b"\n",
            good.replace(b"virtualservice-", b"virtualservicE-"),
            good.replace(b"-0000-", b"-00/0-"),
            good.replace(b"2026-", b"1969-"),
            good.replace(b"-11-", b"-13-"),
            good.replace(b"-11-", b"-00-"),
            good.replace(b"-11-2", b"-02-3"),
            good.replace(b"-11-2", b"-02-0").replace(b"-02-07", b"-02-29"),
            good.replace(b"-27T", b"-00T"),
            good.replace(b"T12", b"T24"),
            good.replace(b":00:", b":60:"),
            good.replace(b":00.", b":60."),
            good.replace(b".000", b".0x0"),
            good.replace(b"Z", b"z"),
        ]
        for text in bad:
            self.assertNotEqual(text, good)
            by_service, drops, _ = taken(good + text + good)
            self.assertEqual((by_service, drops), ({service(1): good * 2}, {DropReason.CORRUPT: 1}), text)
        self.assertEqual(taken(b"\n\n" + good + b"\n"), ({service(1): good}, {}, len(good) + 3))
        leap = good.replace(b"2026-11-27", b"2024-02-29")
        self.assertEqual(taken(leap)[0], {service(1): leap})

    def test_nothing_is_nothing(self):
        self.assertEqual(taken(b""), ({}, {}, 0))
        self.assertEqual(taken(b"", final=False), ({}, {}, 0))
        self.assertEqual(taken(b"\n"), ({}, {}, 1))
        self.assertEqual(taken(b"x", final=False), ({}, {}, 0))

    def test_torn_lines_are_counted_where_and_when_they_were(self):
        minute = DROP_RANGE_US
        data = b"".join(
            line(number, at, x=1).replace(b"}", b"") for number, at in ((1, 5), (1, 9), (2, 6), (1, minute))
        )
        drops = split(data, LogClass.SIGNIFICANT, final=True).drops
        self.assertEqual(
            {(d.service, d.first_us, d.last_us, d.records) for d in drops},
            {(service(1), 5, 9, 2), (service(2), 6, 6, 1), (service(1), minute, minute, 1)},
        )
        self.assertEqual({(d.reason, d.log_class) for d in drops}, {(DropReason.TORN, LogClass.SIGNIFICANT)})
        self.assertEqual(sum(d.raw_bytes for d in drops), len(data))
