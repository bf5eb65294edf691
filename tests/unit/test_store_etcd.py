"""The store's reads on etcd: pages of one revision, and whatever else is not a transaction or a watch."""

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.store import etcd
from avinet.store.etcd import FIRST_PAGE, LARGEST_PAGE, READS, EtcdStore
from avinet.store.etcd_gateway import MAX_ANSWER_BYTES, Gateway
from avinet.store.etcd_http import EtcdAccess
from avinet.store.etcd_messages import Keyspace, end_of
from avinet.store.interface import Compare, Entry, LeaseId, Put, StoreLimitError, StoreUnavailableError
from tests.unit.gateway_double import HttpDouble, decoded, encoded

NOTHING_LEFT = {"code": 11, "message": "etcdserver: mvcc: required revision has been compacted"}


class Case(SynchronousTestCase):
    """A store on scripted answers."""

    namespace = ""

    def setUp(self):
        self.clock = Clock()
        self.http = HttpDouble()
        access = EtcdAccess(("http://127.0.0.1:1",), namespace=self.namespace)
        self.store = EtcdStore(Gateway(access, self.http, self.clock))

    def serve(self, keys, revision=7):
        """Answer ranges from sorted keys, as etcd does."""

        def on_post(exchange):
            start, end = decoded(exchange.request["key"]), decoded(exchange.request.get("range_end", ""))
            found = [
                (key, value)
                for key, value in keys
                if key == start or (end and key >= start and (key < end or end == b"\0"))
            ]
            limit = exchange.request.get("limit", 10**9)
            kvs = [
                {
                    "key": encoded(key),
                    "value": encoded(value),
                    "mod_revision": "3",
                    "create_revision": "2",
                    "version": "2",
                }
                for key, value in found[:limit]
            ]
            more = {"more": True} if len(found) > limit else {}
            exchange.answer(header={"revision": str(revision)}, kvs=kvs, count=str(len(found)), **more)

        self.http.on_post = on_post

    def limits(self):
        return [exchange.request["limit"] for exchange in self.http.exchanges]


class ListTests(Case):
    """Pages."""

    def test_small_entries_come_in_growing_pages_of_one_revision(self):
        self.serve([(b"p/%05d" % number, b"v") for number in range(1000)])
        listing = self.successResultOf(self.store.list("p/"))
        self.assertEqual([entry.key for entry in listing.entries], [f"p/{n:05}" for n in range(1000)])
        self.assertEqual(self.limits()[:4], [FIRST_PAGE, 2 * FIRST_PAGE, LARGEST_PAGE, LARGEST_PAGE])
        self.assertEqual(
            [e.request["revision"] for e in self.http.exchanges], [0] + [7] * (len(self.limits()) - 1)
        )
        self.assertEqual(listing.revision, 7)

    def test_large_entries_come_in_small_pages(self):
        self.serve([(b"p/%05d" % number, bytes(100_000)) for number in range(64)])
        listing = self.successResultOf(self.store.list("p/"))
        self.assertEqual(len(listing.entries), 64)
        self.assertEqual(set(self.limits()[1:]), {10})

    def test_a_page_that_was_too_large_is_asked_for_in_parts(self):
        self.serve([(b"p/%05d" % number, bytes(1024 * 1024 - 1)) for number in range(8)])
        listing = self.successResultOf(self.store.list("p/"))
        self.assertEqual(len(listing.entries), 8)
        self.assertEqual(self.limits()[:3], [FIRST_PAGE, FIRST_PAGE // 8, 1])
        self.assertLess(4 * 1024 * 1024 * 4 / 3, MAX_ANSWER_BYTES)

    def test_compaction_between_pages_begins_the_listing_anew(self):
        self.serve([(b"p/%05d" % number, b"") for number in range(40)])
        served, refused = self.http.on_post, []

        def on_post(exchange):
            if exchange.request["revision"] and not refused:
                refused.append(exchange)
                exchange.answer(400, **NOTHING_LEFT)
            else:
                served(exchange)

        self.http.on_post = on_post
        self.assertEqual(len(self.successResultOf(self.store.list("p/")).entries), 40)
        self.assertEqual([e.request["revision"] for e in self.http.exchanges], [0, 7, 0, 7])

    def test_compaction_again_and_again_is_said(self):
        self.http.on_post = lambda exchange: exchange.answer(400, **NOTHING_LEFT)
        self.failureResultOf(self.store.list("p/"), StoreUnavailableError)

    def test_a_key_that_no_store_made_is_said(self):
        self.serve([(b"p/\xff", b"")])
        why = self.failureResultOf(self.store.list("p/"), StoreUnavailableError).value
        self.assertIn("no avinet made", str(why))

    def test_the_stores_own_keys_are_not_listed(self):
        self.serve([(b"\0turn", b""), (b"a", b"")])
        self.assertEqual([e.key for e in self.successResultOf(self.store.list("")).entries], ["a"])


class DamageTests(Case):
    """Whatever an answer looks like."""

    def test_any_damage_is_an_entry_or_an_error_of_ours(self):
        self.serve([(b"a", b"value")])
        self.successResultOf(self.store.get("a"))
        answer = (
            b'{"header":{"revision":"7"},"kvs":[{"key":"YQ==","value":"dmFsdWU=","mod_revision":"3",'
            b'"create_revision":"2","lease":"5"}],"count":"1"}'
        )
        for seed in range(200):
            chance = random.Random(seed)
            data = bytearray(answer)
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(data))
                data[place : place + chance.randint(0, 3)] = chance.choice(
                    [
                        b"",
                        b'"',
                        b"}",
                        b"9",
                        b"\0",
                        b"\xff",
                        b"e",
                        b"-",
                        b"{",
                        b"[",
                        bytes([chance.randrange(256)]),
                    ]
                )

            def on_post(exchange, data=bytes(data)):
                exchange.say(data)
                exchange.done.callback(200)

            self.http.on_post = on_post
            asking = self.store.get("a")
            self.clock.pump([0.5] * 11)
            result = []
            asking.addBoth(result.append)
            if hasattr(result[0], "trap"):
                result[0].trap(StoreUnavailableError)
            else:
                self.assertIsInstance(result[0], Entry | None)


class NamespaceTests(Case):
    """Everything under one prefix of etcd's."""

    namespace = "ours/"

    def test_keys_are_put_under_it_and_read_without_it(self):
        self.serve([(b"ours/\0turn", b""), (b"ours/a", b"1"), (b"ours0", b"")])
        self.assertEqual([e.key for e in self.successResultOf(self.store.list("")).entries], ["a"])
        self.assertEqual(self.successResultOf(self.store.get("a")).key, "a")

    def test_ranges_end_where_their_prefix_does(self):
        for prefix, end in (
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
            (b"", b"\0"),
            (b"a/", b"a0"),
        ):
            self.assertEqual(end_of(prefix), end)
        keys = Keyspace(b"ours/")
        self.assertEqual(keys.everything(), {"key": b"ours/", "range_end": b"ours0"})
        self.assertEqual(keys.span(""), {"key": b"ours/\1", "range_end": b"ours0"})

    def test_revisions_that_no_key_can_have_are_asked_for_as_such(self):
        keys = Keyspace(b"")
        asked = [keys.compares([Compare("a", n)])[0]["mod_revision"] for n in (-(2**70), 5, 2**70)]
        self.assertEqual(asked, [-1, 5, 2**63 - 1])


class OtherTests(Case):
    """Leases, bounds, the end."""

    def test_a_grant_whose_answer_was_lost_is_asked_for_again_under_its_number(self):
        granting = self.store.grant_lease(9.1)
        lost = self.http.only
        self.assertEqual(lost.request["TTL"], 10)
        lost.fail(OSError("cut"))
        self.clock.advance(1)
        self.assertEqual(self.http.only.request, lost.request)
        self.http.only.refuse(9, "etcdserver: lease already exists")
        self.assertEqual(self.successResultOf(granting), lost.request["ID"])

    def test_a_number_that_another_lease_has_is_not_taken_for_ones_own(self):
        granting = self.store.grant_lease(9)
        self.http.only.refuse(9, "etcdserver: lease already exists")
        self.failureResultOf(granting, StoreUnavailableError)

    def test_keeping_alive_tells_an_ended_lease(self):
        for answer, lives in (({"result": {"ID": "5", "TTL": "9"}}, True), ({"result": {"ID": "5"}}, False)):
            keeping = self.store.keep_alive(LeaseId(5))
            self.http.only.answer(**answer)
            self.assertEqual(self.successResultOf(keeping), lives)

    def test_keeping_alive_without_a_leader_is_no_end_of_the_lease(self):
        keeping = self.store.keep_alive(LeaseId(5))
        self.http.only.answer(error={"grpc_code": 14, "message": "etcdserver: no leader"})
        self.clock.advance(0.1)
        self.http.only.answer(result={"TTL": "9"})
        self.assertTrue(self.successResultOf(keeping))

    def test_reads_have_a_number_at_a_time_and_a_number_that_wait(self):
        self.patch(etcd, "MAX_WAITING", 2000)  # more than Python nests calls
        reading = [self.store.get("a") for _ in range(READS + 2000)]
        self.assertEqual(len(self.http.waiting), READS)
        self.failureResultOf(self.store.get("a"), StoreUnavailableError)
        self.clock.pump([1.0] * 6)
        for one in reading:
            self.failureResultOf(one, StoreUnavailableError)
        # Attempts of the first; the others never had one.
        self.assertLessEqual(len(self.http.exchanges), 3 * READS)

    def test_limits_are_checked_before_anything_is_asked(self):
        for doing in (self.store.get(""), self.store.grant_lease(0), self.store.transact([], [Put("", b"")])):
            self.failureResultOf(doing, StoreLimitError)
        self.assertEqual(self.http.exchanges, [])

    def test_closing_waits_for_reads_and_lets_go(self):
        reading = self.store.get("a")
        closing = [self.store.close(), self.store.close()]
        self.assertNoResult(closing[0])
        self.http.only.answer()
        self.assertIsNone(self.successResultOf(reading))
        for one in closing:
            self.successResultOf(one)
        self.assertTrue(self.http.closed)
