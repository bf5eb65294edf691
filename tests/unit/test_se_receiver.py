"""Pushes are put together whole, held to what they announce, and refused in the words of Nack."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.model.resources import EMPTY_STATE_HASH, Resource, hashes_of, state_hash
from avinet.se.receiver import MAX_PUSH_BYTES, MAX_RESOURCES, Push, Receiver, Refusal, compose
from avinet.wire.messages import ConfigEnd, ConfigPut, ConfigRemove, ConfigStart

ANY = Fence()


def fence(version, term=0):
    return Fence(0, term, ConfigVersion(version))


def start(push=1, *, version=1, base=None, hash_="", puts=0, removes=0, size=0):
    return ConfigStart(
        push=push, fence=fence(version), base=base, hash=hash_, puts=puts, removes=removes, size=size
    )


def put(name, body, push=1, more=False):
    return ConfigPut(push=push, name=name, body=body, more=more)


def frames(state, *, push=1, version=1, piece=10_000):
    """A snapshot of ``state`` as its frames."""
    hashes = hashes_of(Resource(n, b) for n, b in state.items())
    size = sum(map(len, state.values()))
    yield start(push, version=version, hash_=state_hash(hashes), puts=len(state), size=size)
    for name, body in state.items():
        pieces = [body[i : i + piece] for i in range(0, len(body), piece)] or [b""]
        for index, part in enumerate(pieces):
            yield put(name, part, push, more=index < len(pieces) - 1)
    yield ConfigEnd(push=push)


class Receiving(SynchronousTestCase):
    def setUp(self):
        self.receiver = Receiver()

    def feed(self, messages, highest=ANY):
        return [self.receiver.receive(message, highest) for message in messages]

    def refused(self, reason, messages, highest=ANY):
        outcomes = [o for o in self.feed(messages, highest) if o is not None]
        self.assertEqual([type(o) for o in outcomes], [Refusal])
        self.assertEqual(outcomes[0].reason, reason)
        return outcomes[0]

    def test_a_push_comes_out_whole_at_its_end_and_not_before(self):
        outcomes = self.feed(frames({"pool/a": b"one", "pool/b": b"two"}))
        self.assertEqual(outcomes[:-1], [None, None, None])
        self.assertEqual([r.name for r in outcomes[-1].puts], ["pool/a", "pool/b"])
        self.assertEqual(outcomes[-1].number, 1)

    @given(
        st.dictionaries(st.text("abc/", min_size=1, max_size=8), st.binary(max_size=50), max_size=6),
        st.integers(1, 20),
    )
    def test_any_state_cut_into_any_pieces_arrives_as_it_was(self, state, piece):
        self.receiver = Receiver()
        push = self.feed(frames(state, piece=piece))[-1]
        self.assertEqual({n: r.body for n, r in compose({}, push).items()}, state)

    @given(st.integers(0, 3))
    def test_a_push_with_any_one_frame_lost_never_comes_out(self, lost):
        self.receiver = Receiver()
        messages = list(frames({"pool/a": b"one", "pool/b": b"two"}))
        del messages[lost]
        self.assertFalse(any(isinstance(o, Push) for o in self.feed(messages)))

    def test_an_older_fence_is_refused_at_the_start_and_its_frames_are_dropped(self):
        refusal = self.refused("fenced", frames({"pool/a": b"x"}, version=4), highest=fence(5))
        self.assertEqual(refusal.fence, fence(4))

    def test_a_fence_overtaken_while_the_frames_arrive_is_refused_at_the_end(self):
        *first, end = frames({"pool/a": b"x"}, version=4)
        self.assertEqual(self.feed(first), [None, None])
        self.assertEqual(self.receiver.receive(end, fence(5)).reason, "fenced")

    def test_an_equal_fence_is_taken(self):
        self.assertIsInstance(self.feed(frames({}, version=5), highest=fence(5))[-1], Push)

    def test_too_many_bytes_are_refused_before_any_arrive(self):
        self.refused("too-large", [start(size=MAX_PUSH_BYTES + 1, puts=1)])

    def test_too_many_resources_or_removals_are_refused_before_any_arrive(self):
        self.refused("too-large", [start(puts=MAX_RESOURCES + 1)])
        self.refused("too-large", [start(removes=MAX_RESOURCES + 1)])

    def test_negative_counts_are_refused(self):
        self.refused("too-large", [start(size=-1)])

    def test_more_bytes_than_announced_are_refused_as_they_arrive(self):
        refusal = self.refused("malformed", [start(puts=1, size=3), put("pool/a", b"four")])
        self.assertEqual(refusal.resource, "pool/a")

    def test_more_resources_than_announced_are_refused(self):
        self.refused("malformed", [start(puts=1, size=9), put("pool/a", b"x"), put("pool/b", b"y")])

    def test_fewer_resources_than_announced_are_refused_at_the_end(self):
        self.refused("malformed", [start(puts=2, size=1), put("pool/a", b"x"), ConfigEnd(push=1)])

    def test_more_removals_than_announced_are_refused(self):
        self.refused("malformed", [start(removes=1), ConfigRemove(push=1, names=("pool/a", "pool/b"))])

    def test_a_resource_sent_twice_is_refused(self):
        self.refused("malformed", [start(puts=2, size=2), put("pool/a", b"x"), put("pool/a", b"y")])

    def test_pieces_of_two_resources_may_not_mix(self):
        self.refused(
            "malformed", [start(puts=2, size=2), put("pool/a", b"x", more=True), put("pool/b", b"y")]
        )

    def test_a_push_that_ends_inside_a_resource_is_refused(self):
        self.refused("malformed", [start(size=1), put("pool/a", b"x", more=True), ConfigEnd(push=1)])

    def test_a_name_both_set_and_removed_is_refused(self):
        self.refused(
            "malformed",
            [
                start(puts=1, removes=1, size=1),
                put("pool/a", b"x"),
                ConfigRemove(push=1, names=("pool/a",)),
                ConfigEnd(push=1),
            ],
        )

    def test_a_name_without_bounds_is_refused(self):
        self.refused("malformed", [start(puts=1, size=1), put("x" * 257, b"x")])

    def test_frames_without_a_start_are_answered_once(self):
        self.refused("malformed", [put("pool/a", b"x", push=7), ConfigEnd(push=7)])

    def test_a_new_start_abandons_the_push_before_it(self):
        self.feed([start(1, puts=1, size=1), put("pool/a", b"x")])
        push = self.feed(frames({"pool/b": b"y"}, push=2))[-1]
        self.assertEqual([r.name for r in push.puts], ["pool/b"])


class Composing(SynchronousTestCase):
    current = {"pool/a": Resource("pool/a", b"1"), "pool/b": Resource("pool/b", b"2")}

    def push(self, wanted, *, base, puts=(), removes=()):
        result = state_hash(hashes_of(wanted))
        return Push(
            number=3, fence=fence(1), base=base, hash=result, puts=tuple(puts), removes=tuple(removes)
        )

    def test_a_delta_sets_and_removes_what_it_names(self):
        new = Resource("pool/c", b"3")
        base = state_hash(hashes_of(self.current.values()))
        push = self.push([self.current["pool/a"], new], base=base, puts=[new], removes=["pool/b"])
        self.assertEqual(set(compose(self.current, push)), {"pool/a", "pool/c"})

    def test_a_snapshot_starts_from_nothing(self):
        new = Resource("pool/c", b"3")
        self.assertEqual(compose(self.current, self.push([new], base=None, puts=[new])), {"pool/c": new})

    def test_a_delta_from_another_base_is_refused(self):
        self.assertEqual(compose(self.current, self.push([], base=EMPTY_STATE_HASH)).reason, "base-mismatch")

    def test_a_delta_from_the_empty_state_fits_an_se_that_has_nothing(self):
        new = Resource("pool/c", b"3")
        self.assertEqual(compose({}, self.push([new], base=EMPTY_STATE_HASH, puts=[new])), {"pool/c": new})

    def test_another_result_than_announced_is_refused(self):
        push = self.push([], base=None, puts=[Resource("pool/c", b"3")])
        self.assertEqual(compose({}, push).reason, "malformed")

    def test_removing_what_is_not_there_is_refused_by_name(self):
        refusal = compose({}, self.push([], base=EMPTY_STATE_HASH, removes=["pool/x"]))
        self.assertEqual((refusal.reason, refusal.resource), ("malformed", "pool/x"))
