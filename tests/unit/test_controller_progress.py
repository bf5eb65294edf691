"""One SE's progress: every input in every stand, and the invariants over any order of them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.progress import (
    ANEW,
    PUSH_TIMEOUT_S,
    RETRY_BASE_S,
    RETRY_CAP_S,
    Progress,
    Stand,
    Wanted,
)
from avinet.model.ids import ConfigVersion
from avinet.model.resources import EMPTY_STATE_HASH, Resource, hashes_of


def wanted(version, **bodies):
    resources = {f"pool/{n}": Resource(f"pool/{n}", b.encode()) for n, b in bodies.items()}
    return Wanted.of(ConfigVersion(version), resources)


NOTHING, FIRST, SECOND = wanted(1), wanted(2, a="1", b="1"), wanted(3, a="2", c="1")
KNOWN = {w.hash: hashes_of(w.resources.values()) for w in (NOTHING, FIRST, SECOND)}


class Case(SynchronousTestCase):
    def setUp(self):
        self.progress = Progress()
        self.now = 100.0

    def push(self, known=KNOWN):
        return self.progress.next_push(known, self.now)

    def begin(self, want=FIRST, has=EMPTY_STATE_HASH):
        self.progress.want(want)
        self.progress.attached(has)

    def nack(self, push, reason="rejected", text="no", state=EMPTY_STATE_HASH):
        return self.progress.nacked(push.number, reason, text, state, self.now)


class Pushing(Case):
    def test_an_se_that_is_away_is_sent_nothing(self):
        self.progress.want(FIRST)
        self.assertIs(self.progress.stand, Stand.AWAY)
        self.assertIsNone(self.push())

    def test_an_se_that_has_it_is_sent_nothing(self):
        self.begin(has=FIRST.hash)
        self.assertIs(self.progress.stand, Stand.IN_SYNC)
        self.assertIsNone(self.push())

    def test_an_empty_hash_is_the_empty_state(self):
        self.begin(want=NOTHING, has="")
        self.assertTrue(self.progress.in_sync)

    def test_a_known_state_gets_a_delta(self):
        self.begin(want=SECOND, has=FIRST.hash)
        push = self.push()
        self.assertEqual(push.base, FIRST.hash)
        self.assertEqual([r.name for r in push.delta.put], ["pool/a", "pool/c"])
        self.assertEqual(push.delta.remove, ("pool/b",))
        self.assertIs(self.progress.stand, Stand.SENDING)

    def test_an_unknown_state_gets_a_snapshot(self):
        self.begin(has="f" * 64)
        push = self.push()
        self.assertIsNone(push.base)
        self.assertEqual((len(push.delta.put), push.delta.remove), (2, ()))

    def test_one_push_is_under_way_at_a_time(self):
        self.begin()
        self.push()
        self.progress.want(SECOND)
        self.assertIsNone(self.push())

    def test_the_next_one_starts_from_what_was_acknowledged(self):
        self.begin()
        first = self.push()
        self.progress.want(SECOND)
        self.assertTrue(self.progress.acked(first.number, FIRST.hash))
        second = self.push()
        self.assertEqual((second.base, second.wanted, second.number), (FIRST.hash, SECOND, first.number + 1))
        self.progress.acked(second.number, SECOND.hash)
        self.assertTrue(self.progress.in_sync)

    def test_what_is_wanted_back_while_another_is_on_its_way_is_not_in_sync(self):
        self.begin(want=SECOND, has=FIRST.hash)
        push = self.push()
        self.progress.want(FIRST)
        self.assertFalse(self.progress.in_sync)
        self.progress.acked(push.number, SECOND.hash)
        self.assertEqual(self.push().wanted, FIRST)

    def test_answers_to_nothing_that_was_sent_change_nothing(self):
        self.begin()
        self.assertFalse(self.progress.acked(1, FIRST.hash))
        push = self.push()
        self.assertFalse(self.progress.acked(push.number + 1, FIRST.hash))
        self.assertFalse(self.progress.nacked(push.number - 1, "rejected", "", "", self.now))
        self.assertIs(self.progress.stand, Stand.SENDING)

    def test_a_push_is_overdue_after_its_time(self):
        self.begin()
        self.push()
        self.assertFalse(self.progress.overdue(self.now + PUSH_TIMEOUT_S - 1))
        self.assertTrue(self.progress.overdue(self.now + PUSH_TIMEOUT_S))

    def test_what_was_on_its_way_when_the_session_ended_is_sent_again(self):
        self.begin()
        self.push()
        self.progress.detached()
        self.assertIs(self.progress.stand, Stand.AWAY)
        self.progress.attached(EMPTY_STATE_HASH)
        self.assertEqual(self.push().wanted, FIRST)


class Refusing(Case):
    def test_a_refusal_waits_longer_each_time_up_to_the_cap(self):
        self.begin()
        waits = []
        for _ in range(12):
            self.assertTrue(self.nack(self.push()))
            self.assertIs(self.progress.stand, Stand.WAITING)
            waits.append(self.progress.retry_at - self.now)
            self.assertIsNone(self.push())
            self.now = self.progress.retry_at
        self.assertEqual(waits[:4], [RETRY_BASE_S * 2**n for n in range(4)])
        self.assertEqual(waits[-1], RETRY_CAP_S)

    def test_another_state_is_sent_at_once(self):
        self.begin()
        self.nack(self.push())
        self.progress.want(SECOND)
        self.assertEqual((self.progress.refused, self.push().wanted), ("", SECOND))

    def test_the_same_state_in_a_new_version_still_waits(self):
        self.begin()
        self.nack(self.push())
        self.progress.want(Wanted.of(ConfigVersion(9), FIRST.resources))
        self.assertIsNone(self.push())
        self.assertEqual(self.progress.refused, "no")

    def test_a_refusal_of_what_is_no_longer_wanted_does_not_wait(self):
        self.begin()
        push = self.push()
        self.progress.want(SECOND)
        self.nack(push)
        self.assertEqual(self.push().wanted, SECOND)

    def test_refusals_that_say_nothing_against_it_get_a_snapshot_at_once_and_then_wait(self):
        for reason in ANEW:
            self.setUp()
            self.begin()
            push = self.push()
            self.assertIsNotNone(push.base)
            self.nack(push, reason)
            again = self.push()
            self.assertIsNone(again.base)
            self.nack(again, reason)
            self.assertIsNone(self.push())
            self.assertIs(self.progress.stand, Stand.WAITING)

    def test_an_ack_clears_what_was_held_against_it(self):
        self.begin()
        self.nack(self.push())
        self.now = self.progress.retry_at
        self.progress.acked(self.push().number, FIRST.hash)
        self.assertEqual((self.progress.refused, self.progress.retry_at), ("", None))

    def test_an_ack_of_another_hash_than_was_sent_is_not_in_sync(self):
        self.begin()
        self.progress.acked(self.push().number, "f" * 64)
        self.assertFalse(self.progress.in_sync)

    def test_a_data_plane_that_says_otherwise_is_sent_to_after_a_while(self):
        self.begin(has=FIRST.hash)
        self.progress.reported(SECOND.hash, self.now)
        self.assertFalse(self.progress.in_sync)
        self.assertIsNone(self.push())
        self.now += RETRY_BASE_S
        self.assertEqual(self.push().base, SECOND.hash)

    def test_a_data_plane_that_mended_itself_is_sent_nothing(self):
        self.begin(has=FIRST.hash)
        self.progress.reported(SECOND.hash, self.now)
        self.progress.reported(FIRST.hash, self.now)
        self.assertTrue(self.progress.in_sync)
        self.now += 1000
        self.assertIsNone(self.push())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["want", "attach", "detach", "ack", "wrong-ack", "nack", "anew", "report", "push", "wait"]
        ),
        st.sampled_from([NOTHING, FIRST, SECOND]),
    ),
    max_size=40,
)


class AnyOrder(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(STEPS)
    def test_the_invariants_hold_and_it_always_ends_in_sync(self, steps):
        progress, now, under_way, attached = Progress(), 0.0, None, False
        for step, state in steps:
            if step == "want":
                progress.want(state)
            elif step == "attach":
                progress.attached(state.hash)
                under_way, attached = None, True
            elif step == "detach":
                progress.detached()
                under_way, attached = None, False
            elif step == "push":
                push = progress.next_push(KNOWN, now)
                if push is not None:
                    assert attached
                    assert under_way is None
                    assert push.base is None or push.base == progress.has
                    under_way = push
            elif step == "report" and attached:
                progress.reported(state.hash, now)
            elif step == "wait":
                now += 400.0
            elif under_way is not None:
                if step == "ack":
                    assert progress.acked(under_way.number, under_way.wanted.hash)
                elif step == "wrong-ack":
                    assert progress.acked(under_way.number, state.hash)
                else:
                    reason = "base-mismatch" if step == "anew" else "rejected"
                    assert progress.nacked(under_way.number, reason, "", state.hash, now)
                under_way = None
            assert (progress.stand is Stand.AWAY) == (progress.has is None)
            assert (progress.stand is Stand.SENDING) == (under_way is not None)
        if not attached:
            progress.attached("")
        if progress.sending is not None:
            progress.acked(progress.sending.number, progress.sending.wanted.hash)
        for _ in range(3):
            now += 400.0
            push = progress.next_push(KNOWN, now)
            if push is not None:
                progress.acked(push.number, push.wanted.hash)
        assert progress.in_sync
