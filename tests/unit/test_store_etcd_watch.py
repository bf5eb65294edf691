"""A watch on etcd tells each change once and in order, whatever becomes of its streams."""

import json
import random
from pathlib import Path

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.store import etcd_watch
from avinet.store.etcd import EtcdStore
from avinet.store.etcd_gateway import Gateway
from avinet.store.etcd_http import EtcdAccess
from avinet.store.etcd_watch import MAX_LINE_BYTES, SILENT_S
from avinet.store.interface import CompactedError, StoreUnavailableError
from tests.unit.gateway_double import HttpDouble, decoded, encoded
from tests.unit.store_contract import Watcher

A, B = "https://10.0.0.1:2379", "https://10.0.0.2:2379"


def put(revision, key="a", value=b"v", created=None, lease=0):
    kv = {
        "key": encoded(key.encode()),
        "value": encoded(value),
        "mod_revision": str(revision),
        "create_revision": str(created or revision),
    }
    return {"kv": {**kv, **({"lease": str(lease)} if lease else {})}}


def removal(revision, key="a"):
    return {"type": "DELETE", "kv": {"key": encoded(key.encode()), "mod_revision": str(revision)}}


class WatchTests(SynchronousTestCase):
    """One watch."""

    def setUp(self):
        self.clock = Clock()
        self.http = HttpDouble()
        self.store = EtcdStore(Gateway(EtcdAccess((A, B)), self.http, self.clock))

    def watch(self, prefix="", after=10):
        watcher = Watcher()
        watcher.watch = self.store.watch(prefix, after, watcher.on_changes, watcher.lost.append)
        self.clock.advance(0)
        return watcher

    def created(self, revision=10, cluster=5):
        self.http.only.line(result={"header": self.header(revision, cluster), "created": True})

    def header(self, revision, cluster=5):
        return {"revision": str(revision), "cluster_id": str(cluster)}

    def events(self, *events, fragment=False, revision=99):
        more = {"fragment": True} if fragment else {}
        self.http.only.line(result={"header": self.header(revision), "events": list(events), **more})

    def revisions(self, watcher):
        return [change.revision for change in watcher.changes]

    def asked(self):
        return self.http.only.request["create_request"]

    def test_nothing_is_asked_before_watch_has_returned(self):
        self.store.watch("", 1, print, print)
        self.assertEqual(self.http.exchanges, [])

    def test_the_whole_store_is_watched_with_its_own_keys_and_a_prefix_without(self):
        self.watch()
        request = self.asked()
        self.assertEqual((decoded(request["key"]), decoded(request["range_end"])), (b"\0", b"\0"))
        self.setUp()
        self.watch("p/")
        request = self.asked()
        self.assertEqual((decoded(request["key"]), decoded(request["range_end"])), (b"p/", b"p0"))

    def test_it_starts_one_revision_early_so_that_compaction_cannot_hide_a_removal(self):
        watcher = self.watch(after=10)
        self.assertEqual(self.asked()["start_revision"], 10)
        self.created()
        self.events(put(10), put(11))
        self.assertEqual(self.revisions(watcher), [11])

    def test_from_the_beginning_does_not_mean_from_now(self):
        self.watch(after=0)
        self.assertEqual(self.asked()["start_revision"], 1)

    def test_changes_are_told_whole(self):
        watcher = self.watch()
        self.created()
        self.events(put(11, "b", b"x", created=7, lease=9), removal(12, "b"))
        entry = watcher.changes[0].entry
        self.assertEqual((entry.key, entry.value, entry.revision), ("b", b"x", 11))
        self.assertEqual((entry.created_revision, entry.lease), (7, 9))
        self.assertEqual((watcher.changes[1].key, watcher.changes[1].entry), ("b", None))

    def test_the_stores_own_keys_are_not_told_but_move_it_on(self):
        watcher = self.watch()
        self.created()
        self.events(put(11, "\0turn"))
        self.assertEqual((watcher.changes, watcher.calls), ([], 0))
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.assertEqual(self.asked()["start_revision"], 11)

    def test_a_broken_stream_goes_on_elsewhere_where_it_was(self):
        watcher = self.watch()
        self.created()
        self.events(put(11), put(12))
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.assertEqual((self.http.only.url, self.asked()["start_revision"]), (B, 12))
        self.created()
        self.events(put(12), put(13))
        self.assertEqual((self.revisions(watcher), watcher.lost), ([11, 12, 13], []))

    def test_a_revision_in_several_messages_is_told_once_it_is_whole(self):
        watcher = self.watch()
        self.created()
        self.events(put(11), put(12, "a"), fragment=True)
        self.assertEqual(self.revisions(watcher), [11])
        self.events(put(12, "b"), fragment=True)
        self.assertEqual(self.revisions(watcher), [11])
        self.events(put(12, "c"))
        self.assertEqual(self.revisions(watcher), [11, 12, 12, 12])
        self.assertEqual(watcher.calls, 2)

    def test_half_a_revision_is_forgotten_with_its_stream(self):
        watcher = self.watch()
        self.created()
        self.events(put(11), put(12, "a"), fragment=True)
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.created()
        self.events(put(12, "a"), put(12, "b"))
        self.assertEqual([change.key for change in watcher.changes], ["a", "a", "b"])

    def test_a_silent_stream_is_begun_anew(self):
        watcher = self.watch()
        self.created()
        self.events(put(11))
        self.clock.advance(SILENT_S - 0.1)
        old = self.http.only
        self.events(put(12))
        self.clock.advance(SILENT_S - 0.1)
        self.assertFalse(old.cancelled)
        self.clock.advance(0.2)
        self.assertTrue(old.cancelled)
        self.assertEqual((self.http.only.url, self.asked()["start_revision"]), (A, 12))
        self.created()
        self.events(put(12), put(13))
        self.assertEqual(self.revisions(watcher), [11, 12, 13])

    def test_a_stream_from_an_endpoint_that_gives_others_no_answer_is_begun_elsewhere(self):
        watcher = self.watch()
        self.created()
        self.events(put(11))
        stream = self.http.only
        self.store.get("a")
        self.clock.advance(1.7)
        self.assertTrue(stream.cancelled)
        self.assertEqual([exchange.url for exchange in self.http.waiting], [B, B])
        self.assertEqual(self.http.waiting[0].request["create_request"]["start_revision"], 11)
        self.assertEqual(watcher.lost, [])

    def test_one_that_never_opens_is_left_for_another_endpoint(self):
        self.watch()
        first = self.http.only
        self.clock.advance(1.7)
        self.clock.advance(0.5)
        self.assertTrue(first.cancelled)
        self.assertEqual(self.http.only.url, B)

    def test_a_notice_of_progress_keeps_it_alive_and_moves_it_on(self):
        self.watch()
        self.created()
        self.clock.advance(SILENT_S - 0.1)
        self.http.only.line(result={"header": self.header(40)})
        self.clock.advance(SILENT_S - 0.1)
        self.assertEqual(len(self.http.exchanges), 1)
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.assertEqual(self.asked()["start_revision"], 40)

    def test_being_created_is_no_progress(self):
        self.watch()
        self.created(revision=40)
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.assertEqual(self.asked()["start_revision"], 10)

    def test_compaction_ends_it_and_names_what_was_asked_for(self):
        watcher = self.watch(after=10)
        self.created()
        self.events(put(11))
        self.http.only.line(result={"header": self.header(0), "canceled": True, "compact_revision": "50"})
        self.assertEqual([type(why) for why in watcher.lost], [CompactedError])
        self.assertEqual(watcher.lost[0].revision, 10)
        self.clock.advance(60)
        self.assertEqual((self.http.waiting, self.clock.getDelayedCalls()), ([], []))

    def test_another_history_ends_it_too(self):
        watcher = self.watch()
        self.created()
        self.http.only.fail(ConnectionLost())
        self.clock.advance(0.5)
        self.created(cluster=6)
        self.assertEqual([type(why) for why in watcher.lost], [CompactedError])

    def test_what_etcd_ends_for_another_reason_is_begun_again(self):
        for message in (
            {
                "result": {
                    "header": self.header(10),
                    "created": True,
                    "canceled": True,
                    "cancel_reason": "denied",
                }
            },
            {"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}},
            {"error": {"grpc_code": 16, "message": "etcdserver: invalid auth token"}},
            {},
        ):
            with self.subTest(message=message):
                self.setUp()
                watcher = self.watch()
                self.http.only.line(**message)
                self.clock.advance(0.5)
                self.assertEqual((self.http.only.url, watcher.lost), (B, []))

    def test_a_token_that_is_not_taken_is_asked_for_anew(self):
        password = Path(self.mktemp())
        password.write_text("open sesame")
        access = EtcdAccess((A, B), user="avinet", password_file=password)
        self.store = EtcdStore(Gateway(access, self.http, self.clock))
        self.watch()
        self.http.only.answer(token="t1")
        self.assertEqual((self.http.only.path, self.http.only.token), ("watch", "t1"))
        self.http.only.line(
            result={"header": self.header(10), "created": True, "canceled": True, "cancel_reason": "denied"}
        )
        self.clock.advance(0.5)
        self.http.only.answer(token="t2")
        self.assertEqual((self.http.only.path, self.http.only.token), ("watch", "t2"))

    def test_an_endpoint_that_opens_a_stream_is_believed_in_again(self):
        self.watch()
        self.http.only.fail()
        self.clock.advance(0.5)
        self.created()
        self.clock.advance(SILENT_S)
        self.assertEqual(self.http.only.url, A)
        self.created()
        self.store.get("a")
        self.assertEqual([exchange.url for exchange in self.http.waiting], [A, A])

    def test_garbage_and_endless_lines_are_begun_again(self):
        for pieces in (
            [b"<html>\n"],
            [b"\xff\n"],
            [b'{"result": 5}\n'],
            [b'{"result": {"events": [{"kv": {"key": "%"}}]}}\n'],
            [b"x" * 2**20] * (MAX_LINE_BYTES // 2**20 + 1),
            [json.dumps({"result": {"events": [put(12), put(11)]}}).encode() + b"\n"],
            [
                json.dumps({"result": {"events": [{"kv": {"key": "//79", "mod_revision": "11"}}]}}).encode()
                + b"\n"
            ],
        ):
            with self.subTest(piece=pieces[0][:30]):
                self.setUp()
                watcher = self.watch()
                exchange = self.http.only
                for piece in pieces:
                    if exchange.open:
                        exchange.say(piece)
                self.assertFalse(exchange.open)
                self.clock.advance(0.5)
                self.assertEqual((self.http.only.url, watcher.changes, watcher.lost), (B, [], []))

    def test_any_damage_leads_to_another_stream_or_to_changes_in_order(self):
        line = json.dumps(
            {"result": {"header": self.header(12), "events": [put(11), removal(12, "b"), put(13, lease=4)]}}
        ).encode()
        for seed in range(200):
            chance = random.Random(seed)
            data = bytearray(line + b"\n" + line + b"\n")
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(data))
                data[place : place + chance.randint(0, 3)] = chance.choice(
                    [
                        b"",
                        b'"',
                        b"}",
                        b"9",
                        b"\n",
                        b"\0",
                        b"\xff",
                        b"e",
                        b"-",
                        b"{",
                        bytes([chance.randrange(256)]),
                    ]
                )
            self.setUp()
            watcher = self.watch()
            self.created()
            exchange = self.http.only
            exchange.say(bytes(data))
            revisions = self.revisions(watcher)
            self.assertEqual(revisions, sorted(revisions))
            self.assertTrue(all(revision > 10 for revision in revisions))
            self.assertLessEqual({type(why) for why in watcher.lost}, {CompactedError})
            watcher.watch.cancel()

    def test_a_revision_without_end_is_given_up(self):
        self.patch(etcd_watch, "MAX_HELD_BYTES", 1000)
        self.watch()
        self.created()
        exchange = self.http.only
        for _ in range(11):
            if exchange.open:
                self.events(put(11, value=bytes(100)), fragment=True)
        self.assertFalse(exchange.open)

    def test_lines_come_in_any_pieces(self):
        watcher = self.watch()
        self.created()
        line = json.dumps({"result": {"header": self.header(12), "events": [put(11), put(12)]}}).encode()
        for byte in line + b"\n\n":
            self.http.only.say(bytes([byte]))
        self.assertEqual(self.revisions(watcher), [11, 12])

    def test_while_nothing_answers_it_asks_with_pauses_for_ever(self):
        watcher = self.watch()
        self.http.on_post = lambda exchange: exchange.fail()
        self.http.only.fail()
        for _ in range(600):
            self.clock.advance(0.1)
        self.assertEqual(watcher.lost, [])
        self.assertLess(len(self.http.exchanges), 60)
        self.http.on_post = None
        self.clock.advance(2)
        self.created()
        self.events(put(11))
        self.assertEqual(self.revisions(watcher), [11])

    def test_a_watcher_may_cancel_from_inside_its_own_call(self):
        watcher = self.watch()

        def cancel(changes):
            watcher.watch.cancel()
            watcher.on_changes(changes)

        watcher.watch.cancel()
        watcher.watch = self.store.watch("", 10, cancel, watcher.lost.append)
        self.clock.advance(0)
        self.created()
        exchange = self.http.only
        lines = [json.dumps({"result": {"header": self.header(12), "events": [put(n)]}}) for n in (11, 12)]
        exchange.say("\n".join([*lines, ""]).encode())
        self.assertEqual((self.revisions(watcher), exchange.cancelled), ([11], True))

    def test_closing_the_store_ends_it(self):
        watcher = self.watch()
        self.created()
        exchange = self.http.only
        self.successResultOf(self.store.close())
        self.assertTrue(exchange.cancelled)
        self.assertEqual([type(why) for why in watcher.lost], [StoreUnavailableError])
        self.assertEqual(self.clock.getDelayedCalls(), [])
