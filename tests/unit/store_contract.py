"""What every store must do: one suite, run on each implementation by a subclass that makes the store."""

from twisted.internet.task import Clock

from avinet.errors import AvinetError
from avinet.store.interface import (
    FENCE_KEY,
    MAX_KEY_BYTES,
    MAX_TXN_BYTES,
    MAX_TXN_OPS,
    Change,
    CompactedError,
    Compare,
    Delete,
    LeaseEndedError,
    LeaseId,
    Put,
    Store,
    StoreLimitError,
    StoreUnavailableError,
)


class Watcher:
    """Collects what a watch reports."""

    def __init__(self):
        self.changes: list[Change] = []
        self.calls = 0
        self.lost: list[AvinetError] = []

    def on_changes(self, changes):
        self.calls += 1
        self.changes.extend(changes)

    @property
    def seen(self):
        return [(c.key, c.entry.value if c.entry else None) for c in self.changes]


class StoreContract:
    """Mix into a ``SynchronousTestCase`` that defines ``make_store(clock, max_history=...)``.

    Revisions count from ``start``, and leases last ``ttl_s``: a store of many tests has seen changes, and one whose
    time is real is not waited for longer than needed.
    """

    store: Store
    ttl_s = 10.0

    def setUp(self):
        self.clock = Clock()
        self.store = self.make_store(self.clock)
        self.start = self.successResultOf(self.store.list("")).revision

    def tearDown(self):
        self.successResultOf(self.store.close())

    def do(self, *operations, compares=()):
        return self.successResultOf(self.store.transact(compares, operations))

    def get(self, key):
        return self.successResultOf(self.store.get(key))

    def refused(self, deferred, kind):
        return self.failureResultOf(deferred, kind).value

    def watcher(self, prefix, after):
        watcher = Watcher()
        watcher.watch = self.store.watch(prefix, after, watcher.on_changes, watcher.lost.append)
        return watcher

    # what a store with a time of its own does otherwise

    def told(self, watcher, seen):
        """All that was reported until now."""
        self.clock.advance(0)
        self.assertEqual(watcher.seen, seen)

    def until(self, condition):
        """Something that comes in a later turn."""
        self.clock.advance(0)
        self.assertTrue(condition())

    def forget(self, revision):
        """The history before ``revision``; the embedded stores do that by themselves."""

    def wait(self, share):
        """A share of a lease's time."""
        self.clock.advance(share * self.ttl_s)

    def still_there(self, key):
        self.assertIsNotNone(self.get(key))

    def gone(self, key):
        """Soon after the lease's end."""
        self.clock.advance(0.02 * self.ttl_s)
        self.assertIsNone(self.get(key))

    # reading and writing

    def test_a_key_that_was_never_put_is_none(self):
        self.assertIsNone(self.get("a"))

    def test_a_put_is_read_back_with_its_revisions(self):
        first = self.do(Put("a", b"1"))
        second = self.do(Put("a", b"2"))
        entry = self.get("a")
        self.assertEqual((entry.value, entry.revision), (b"2", second.revision))
        self.assertEqual(entry.created_revision, first.revision)

    def test_a_key_deleted_and_put_again_is_created_anew(self):
        self.do(Put("a", b"1"))
        self.do(Delete("a"))
        again = self.do(Put("a", b"2"))
        self.assertEqual(self.get("a").created_revision, again.revision)

    def test_all_operations_of_a_transaction_share_one_revision(self):
        outcome = self.do(Put("a", b"1"), Put("b", b"2"))
        self.assertEqual([self.get(k).revision for k in "ab"], [outcome.revision] * 2)

    def test_values_are_bytes_without_interpretation(self):
        value = bytes(range(256))
        self.do(Put("a", value))
        self.assertEqual(self.get("a").value, value)

    def test_an_empty_value_is_a_value(self):
        self.do(Put("a", b""))
        self.assertEqual(self.get("a").value, b"")

    def test_list_gives_the_prefix_in_key_order(self):
        self.do(*[Put(k, b"") for k in ("p/b", "p/a", "p/\u00e9", "q", "p", "p/\U0001f600", "p/\uffff")])
        listing = self.successResultOf(self.store.list("p/"))
        self.assertEqual(
            [e.key for e in listing.entries], ["p/a", "p/b", "p/\u00e9", "p/\uffff", "p/\U0001f600"]
        )

    def test_a_prefix_is_not_a_pattern(self):
        self.do(Put("a%c", b""), Put("abc", b""), Put("a_c", b""))
        self.assertEqual([e.key for e in self.successResultOf(self.store.list("a%")).entries], ["a%c"])

    def test_the_empty_prefix_lists_everything(self):
        self.do(Put("a", b""), Put("b", b""))
        self.assertEqual(len(self.successResultOf(self.store.list("")).entries), 2)

    def test_a_listing_names_the_revision_it_is_of(self):
        outcome = self.do(Put("a", b""))
        self.assertEqual(self.successResultOf(self.store.list("z")).revision, outcome.revision)

    def test_a_transaction_that_changes_nothing_costs_no_revision(self):
        before = self.do(Put("a", b"")).revision
        self.assertEqual(self.do(Delete("missing")).revision, before)
        self.assertEqual(self.do().revision, before)

    # compares

    def test_a_failed_compare_does_nothing_and_says_so(self):
        first = self.do(Put("a", b"1"))
        outcome = self.do(Put("a", b"2"), Put("b", b""), compares=[Compare("a", first.revision + 1)])
        self.assertEqual((outcome.succeeded, outcome.revision), (False, first.revision))
        self.assertEqual(self.get("a").value, b"1")
        self.assertIsNone(self.get("b"))

    def test_revision_zero_means_that_the_key_does_not_exist(self):
        self.assertTrue(self.do(Put("a", b"1"), compares=[Compare("a", 0)]).succeeded)
        self.assertFalse(self.do(Put("a", b"2"), compares=[Compare("a", 0)]).succeeded)

    def test_every_compare_must_hold(self):
        first = self.do(Put("a", b"1"))
        outcome = self.do(Put("c", b""), compares=[Compare("a", first.revision), Compare("b", 7)])
        self.assertFalse(outcome.succeeded)

    def test_a_compare_without_operations_is_a_check(self):
        first = self.do(Put("a", b"1"))
        self.assertTrue(self.do(compares=[Compare("a", first.revision)]).succeeded)

    # limits

    def test_the_largest_transaction_passes_and_one_more_operation_does_not(self):
        puts = [Put(f"k{n:03}", b"") for n in range(MAX_TXN_OPS)]
        self.assertTrue(self.do(*puts).succeeded)
        error = self.refused(self.store.transact([Compare("k000", 1)], puts), StoreLimitError)
        self.assertIn("101 operations", str(error))

    def test_the_compare_that_fences_a_leader_does_not_count(self):
        puts = [Put(f"k{n:03}", b"") for n in range(MAX_TXN_OPS)]
        self.assertTrue(self.do(*puts, compares=[Compare(FENCE_KEY, 0)]).succeeded)

    def test_the_bytes_of_keys_and_values_are_limited_together(self):
        self.assertTrue(self.do(Put("a", bytes(MAX_TXN_BYTES - 1))).succeeded)
        self.refused(self.store.transact((), [Put("ab", bytes(MAX_TXN_BYTES - 1))]), StoreLimitError)
        self.assertIsNone(self.get("ab"))

    def test_keys_are_limited_and_well_formed(self):
        self.assertTrue(self.do(Put("k" * MAX_KEY_BYTES, b"")).succeeded)
        for key in ("k" * (MAX_KEY_BYTES + 1), "", "a\0b", "\ud800"):
            self.refused(self.store.transact((), [Put(key, b"")]), StoreLimitError)

    def test_one_key_may_not_be_written_twice(self):
        self.refused(self.store.transact((), [Put("a", b""), Delete("a")]), StoreLimitError)

    # watches

    def test_a_watch_reports_puts_and_removals_under_its_prefix(self):
        watcher = self.watcher("p/", self.start)
        self.do(Put("p/a", b"1"), Put("q", b""))
        self.do(Delete("p/a"))
        self.told(watcher, [("p/a", b"1"), ("p/a", None)])
        self.assertEqual([c.revision for c in watcher.changes], [self.start + 1, self.start + 2])

    def test_a_watch_replays_from_its_revision(self):
        self.do(Put("a", b"1"))
        second = self.do(Put("a", b"2"))
        self.do(Put("a", b"3"))
        self.told(self.watcher("a", second.revision), [("a", b"3")])

    def test_a_watch_tells_entries_as_they_are_read(self):
        watcher = self.watcher("", self.start)
        lease = self.lease()
        self.do(Put("a", b"1"), Put("b", b"2", lease))
        self.told(watcher, [("a", b"1"), ("b", b"2")])
        self.assertEqual([c.entry for c in watcher.changes], [self.get("a"), self.get("b")])

    def test_no_change_is_reported_twice(self):
        watcher = self.watcher("", self.start)
        self.do(Put("a", b"1"))
        self.told(watcher, [("a", b"1")])
        self.do(Put("a", b"2"))
        self.told(watcher, [("a", b"1"), ("a", b"2")])

    def test_a_failed_transaction_is_not_reported(self):
        watcher = self.watcher("", self.start)
        self.do(Put("a", b""), compares=[Compare("a", 9)])
        self.do(Put("b", b""))
        self.told(watcher, [("b", b"")])

    def test_a_cancelled_watch_is_silent(self):
        watcher, other = self.watcher("", self.start), self.watcher("", self.start)
        self.do(Put("a", b""))
        before = watcher.seen
        watcher.watch.cancel()
        watcher.watch.cancel()
        self.do(Put("b", b""))
        self.told(other, [("a", b""), ("b", b"")])
        self.assertEqual((watcher.seen, watcher.lost), (before, []))

    def test_a_watch_from_before_the_history_is_lost(self):
        self.successResultOf(self.store.close())
        self.store = self.make_store(self.clock, max_history=2)
        for n in range(4):
            self.do(Put(f"k{n}", b""))
        revision = self.get("k0").revision
        self.forget(revision + 1)
        late, just = self.watcher("", revision), self.watcher("", revision + 1)
        self.until(lambda: late.lost)
        self.assertEqual([type(e) for e in late.lost], [CompactedError])
        self.assertEqual(late.lost[0].revision, revision)
        self.told(just, [("k2", b""), ("k3", b"")])
        self.assertEqual(just.lost, [])

    def test_a_watcher_that_fails_does_not_silence_others_nor_itself(self):
        calls = []

        def fail(changes):
            calls.append(changes)
            raise ZeroDivisionError

        self.store.watch("", self.start, fail, calls.append)
        watcher = self.watcher("", self.start)
        self.do(Put("a", b"1"))
        self.told(watcher, [("a", b"1")])
        self.until(lambda: len(calls) == 1)
        self.do(Put("a", b"2"))
        self.told(watcher, [("a", b"1"), ("a", b"2")])
        self.until(lambda: len(calls) == 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_closing_ends_watches(self):
        watcher = self.watcher("", self.start)
        self.successResultOf(self.store.close())
        self.assertEqual([type(e) for e in watcher.lost], [StoreUnavailableError])

    # leases

    def lease(self):
        return self.successResultOf(self.store.grant_lease(self.ttl_s))

    def keep_alive(self, lease):
        return self.successResultOf(self.store.keep_alive(lease))

    def test_a_key_goes_when_its_lease_ends_and_watchers_hear_of_it(self):
        lease = self.lease()
        put = self.do(Put("a", b"1", lease), Put("b", b"2"))
        self.assertEqual(self.get("a").lease, lease)
        watcher = self.watcher("", put.revision)
        self.wait(0.99)
        self.still_there("a")
        self.gone("a")
        self.assertIsNotNone(self.get("b"))
        self.told(watcher, [("a", None)])

    def test_keeping_alive_renews_the_whole_time(self):
        lease = self.lease()
        self.do(Put("a", b"", lease))
        for _ in range(4):
            # Often: whose time is real comes late now and then.
            self.wait(0.3)
            self.assertTrue(self.keep_alive(lease))
        self.wait(0.99)
        self.still_there("a")
        self.gone("a")

    def test_what_is_left_of_a_lease_is_known_and_nothing_of_one_that_never_was(self):
        lease = self.lease()
        self.assertLessEqual(self.successResultOf(self.store.lease_rest(lease)), self.ttl_s)
        self.assertGreater(self.successResultOf(self.store.lease_rest(lease)), 0)
        self.assertEqual(self.successResultOf(self.store.lease_rest(lease + 1)), 0)

    def test_an_ended_lease_cannot_be_kept_alive_or_used(self):
        lease = self.lease()
        self.do(Put("a", b"", lease))
        self.wait(1)
        self.gone("a")
        self.assertFalse(self.keep_alive(lease))
        error = self.refused(self.store.transact((), [Put("b", b""), Put("a", b"", lease)]), LeaseEndedError)
        self.assertEqual(error.lease, lease)
        self.assertIsNone(self.get("b"))

    def test_an_ended_lease_is_no_matter_where_a_compare_does_not_hold(self):
        outcome = self.do(Put("a", b"", LeaseId(99)), compares=[Compare("a", 7)])
        self.assertEqual((outcome.succeeded, outcome.revision), (False, self.start))

    def test_a_lease_that_never_was_has_ended(self):
        self.assertFalse(self.keep_alive(LeaseId(99)))
        self.successResultOf(self.store.revoke_lease(LeaseId(99)))

    def test_revoking_deletes_the_keys_in_one_revision(self):
        lease = self.lease()
        before = self.do(Put("a", b"", lease), Put("b", b"", lease)).revision
        self.successResultOf(self.store.revoke_lease(lease))
        listing = self.successResultOf(self.store.list(""))
        self.assertEqual((listing.entries, listing.revision), ((), before + 1))

    def test_putting_again_without_the_lease_keeps_the_key(self):
        lease = self.lease()
        self.do(Put("a", b"", lease), Put("b", b"", lease))
        self.do(Put("a", b""))
        self.wait(1)
        self.gone("b")
        self.assertIsNotNone(self.get("a"))

    def test_a_lease_has_a_least_time(self):
        for ttl_s in (0, -1, 0.5, float("nan"), float("inf")):
            self.refused(self.store.grant_lease(ttl_s), StoreLimitError)

    # the end

    def test_a_closed_store_answers_that_it_is(self):
        self.successResultOf(self.store.close())
        self.refused(self.store.get("a"), StoreUnavailableError)
        self.refused(self.store.transact((), [Put("a", b"")]), StoreUnavailableError)
        watcher = self.watcher("", 0)
        self.until(lambda: watcher.lost)
        self.assertEqual([type(e) for e in watcher.lost], [StoreUnavailableError])
