"""What one controller writes the others know, whatever happens to their watches on the way."""

from unittest.mock import patch

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import config_store, users
from avinet.controller.access_tokens import Owner
from avinet.controller.config_news import MAX_NEWS
from avinet.controller.config_store import ConfigStore
from avinet.controller.following import LAG_S
from avinet.controller.image_keys import ImageRecord
from avinet.model.engine import Lifecycle
from avinet.model.ids import ImageId
from avinet.rest.access import Role
from avinet.store.interface import Delete, Put
from avinet.trust.keys import public_line
from avinet.units import HOUR_S
from tests.unit.config_kit import pool
from tests.unit.following_kit import World

KEY = public_line(Ed25519PrivateKey.generate().public_key())
PASSWORD = "a-good-long-password"


class Case(SynchronousTestCase):
    def setUp(self):
        self.patch(users, "hashed", lambda password: ("00", "00"))  # scrypt is not what is tested
        self.world = World()
        self.addCleanup(self.world.stop)
        self.one, self.other = self.world.all

    def do(self, work, on=None):
        """Let ``work`` end; its result."""
        done = []

        async def doing():
            done.append(await work)

        (on or self.one).do(doing())
        self.world.settle()
        return done[0]

    def create(self, name="web-1"):
        record, _ = self.do(self.one.engines.create(name, "Default-Group"))
        return record

    def assert_same(self):
        self.world.settle()
        fresh = self.world.fresh().knows
        for one in self.world.all:
            self.assertEqual(one.knows, fresh)


class Following(Case):
    def test_a_service_engine_that_one_creates_the_other_knows(self):
        record = self.create()
        self.assertEqual(self.other.engines.named("web-1"), record)
        self.assertEqual(self.other.told, [("se", None, record)])
        self.assert_same()

    def test_who_writes_is_told_once_too_and_by_the_answer_it_knows(self):
        self.create()
        self.assertEqual(len(self.one.told), 1)
        self.do(self.one.users.create("anna", Role.ADMIN, PASSWORD))
        self.do(self.one.config.apply([pool()], "tester"))
        self.assertEqual([told[0] for told in self.one.told], ["se", "user", "config"])
        self.assertEqual([told[0] for told in self.other.told], ["se", "user", "config"])

    def test_a_change_is_told_with_what_was_before(self):
        before = self.create()
        after = self.do(self.one.engines.change(before.uuid, lambda record: noted(record, "x")))
        self.assertEqual(self.other.told[-1], ("se", before, after))

    def test_an_answer_waits_until_the_writers_own_copy_has_it(self):
        self.one.link.hold()
        done = []

        async def create():
            done.append(await self.one.engines.create("web-1", "Default-Group"))

        self.one.do(create())
        self.world.settle()
        self.assertEqual((done, len(self.other.engines.all())), ([], 1))
        self.one.link.let_go()
        self.world.settle()
        self.assertEqual([record.name for record, _ in done], ["web-1"])
        self.assert_same()

    def test_a_watch_that_brings_nothing_is_begun_anew_and_the_write_is_answered(self):
        self.one.link.hold()
        self.one.do(self.one.engines.create("web-1", "Default-Group"))
        self.world.settle()
        self.one.link.held.clear()  # it is dead
        self.world.clock.advance(LAG_S)
        self.one.link.held = None
        self.assertEqual([r.name for r in self.one.engines.all()], ["web-1"])
        self.assert_same()
        self.assertEqual(len(self.one.told), 1)

    def test_a_write_whose_answer_was_lost_is_known_all_the_same(self):
        self.one.link.loses_answers = True
        self.one.do(
            self.one.users._change("anna", lambda before: users._record("anna", Role.ADMIN, "", "", 0))
        )
        self.one.link.loses_answers = False
        self.world.settle()
        self.assertIsNotNone(self.one.users.find("anna"))
        self.assert_same()

    def test_an_enrolment_token_is_good_on_the_other_until_its_lease_ends(self):
        token = self.do(self.one.tokens.issue("web", 2))
        self.assertEqual(self.other.tokens.identify(token.text), token.record)
        self.other.tokens.release(self.other.tokens.claim(token.record.id))
        self.world.clock.advance(HOUR_S + 1)
        self.world.settle()
        self.assertFalse(self.other.tokens._tokens[token.record.id].marker_revision)
        self.assert_same()

    def test_a_session_of_a_user_who_is_deleted_elsewhere_is_told_of(self):
        self.do(self.one.users.create("anna", Role.ADMIN, PASSWORD))
        self.do(self.one.users.create("berta", Role.ADMIN, PASSWORD))
        self.do(self.one.users.delete("anna"))
        self.assertEqual(self.other.told, [("user", "anna"), ("user", "berta"), ("user", "anna")])
        self.assertIsNone(self.other.users.find("anna"))

    def test_a_user_who_did_not_change_stays_the_same_record(self):
        self.do(self.one.users.create("anna", Role.ADMIN, PASSWORD))
        record = self.other.users.find("anna")
        self.other.link.lose_watch()
        self.world.settle()
        self.assertIs(self.other.users.find("anna"), record)

    def test_a_revoked_access_token_ends_on_every_controller(self):
        new = self.do(self.one.access.create(Owner(user="anna", uid="1"), "ci", Role.ADMIN, HOUR_S))
        self.assertEqual(self.other.access.verified(new.text), new.record)
        self.do(self.one.access.revoke(new.record))
        self.assertIsNone(self.other.access.verified(new.text))
        self.assertEqual(self.other.told, [("ended", new.record.id)])
        self.assertEqual(self.one.told, [("ended", new.record.id)])

    def test_a_record_that_is_gone_is_told_of_as_deleted(self):
        record = self.create()
        self.do(self.world.store.transact([], [Delete(f"se/{record.uuid}")]))
        before, after = self.other.told[-1][1:]
        self.assertEqual((before, after.lifecycle), (record, Lifecycle.DELETED))
        self.assertIsNone(self.other.engines.find(record.uuid))

    def test_what_is_not_a_record_costs_the_other_mirrors_nothing(self):
        self.do(self.world.store.transact([], [Put("image/odd", b"{")]))
        self.flushLoggedErrors()
        self.create()
        self.assertEqual(len(self.other.engines.all()), 1)


class Configuration(Case):
    def test_a_version_is_followed_by_its_change_and_not_by_loading_all(self):
        self.do(self.one.config.apply([pool("web")], "tester"))
        with patch.object(ConfigStore, "load", side_effect=AssertionError):
            self.do(self.one.config.apply([pool("web", 81), pool("db")], "tester"))
            self.do(self.one.config.delete("pool", "db", "tester"))
        self.assertEqual(self.other.config.current.version, self.one.config.current.version)
        self.assert_same()

    def test_a_small_change_comes_with_the_watch_and_nothing_is_read(self):
        self.do(self.one.config.apply([pool("web")], "tester"))
        self.other.link.cut = True
        self.do(self.one.config.apply([pool("web", 81), pool("db")], "tester"))
        self.do(self.one.config.delete("pool", "db", "tester"))
        self.assertEqual(self.other.told[-1], ("config", 4))
        self.assert_same()

    def test_many_small_changes_that_come_at_once_are_taken_or_read(self):
        for many in (MAX_NEWS, MAX_NEWS + 5):
            self.other.link.hold()
            for number in range(many):
                self.do(self.one.config.apply([pool("web", 81 + number)], "tester"))
            self.other.link.cut = many == MAX_NEWS
            self.other.link.let_go()
            self.assert_same()
            self.other.link.cut = False

    def test_a_change_whose_forerunner_the_watch_did_not_bring_is_read(self):
        self.do(self.one.config.apply([pool("web")], "tester"))
        self.other.link.hold()
        self.do(self.one.config.apply([pool("db")], "tester"))
        self.other.link.held.clear()
        self.do(self.one.config.apply([pool("cache")], "tester"))
        self.other.link.let_go()
        self.assert_same()

    def test_a_checkpoint_beside_small_changes_is_taken_too(self):
        self.patch(config_store, "CHECKPOINT_EVERY", 3)
        for number in range(10):
            self.do(self.one.config.apply([pool("web", 81 + number)], "tester"))
            self.assert_same()

    def test_who_is_far_behind_reads_all_of_it(self):
        self.other.link.hold()
        for number in range(103):
            self.do(self.one.config.apply([pool("web", 81 + number)], "tester"))
        self.other.link.let_go()
        self.assert_same()

    def pieces_are_small(self):
        """So that a change of two objects is to be read."""
        self.patch(
            config_store, "pieces_of", lambda items: (msgspec.msgpack.encode([item]) for item in items)
        )

    def test_a_version_that_cannot_be_read_now_is_read_later(self):
        self.pieces_are_small()
        self.other.link.cut = True
        self.do(self.one.config.apply([pool(), pool("db")], "tester"))
        self.assertEqual(self.other.config.current.version, 1)
        self.other.link.cut = False
        self.world.clock.advance(1)
        self.assert_same()

    def test_it_says_how_old_what_it_has_is_while_there_is_more_to_read(self):
        self.pieces_are_small()
        self.other.link.cut = True
        self.do(self.one.config.apply([pool(), pool("db")], "tester"))
        self.world.clock.pump([0.5] * 9)
        self.assertEqual((self.one.mirror.behind_s, self.other.mirror.behind_s), (0, 4.5))
        self.other.link.cut = False
        self.world.clock.advance(1)
        self.world.settle()
        self.assertEqual(self.other.mirror.behind_s, 0)

    def test_its_own_change_is_not_read_again(self):
        calls = []
        get = self.one.link.get
        self.one.link.get = lambda key: calls.append(key) or get(key)
        self.do(self.one.config.apply([pool()], "tester"))
        self.assertEqual(calls, [])

    def test_a_change_whose_answer_was_lost_is_taken(self):
        self.one.link.loses_answers = True
        self.one.do(self.one.config.apply([pool()], "tester"))
        self.one.link.loses_answers = False
        self.world.settle()
        self.world.clock.advance(1)
        self.assertEqual(self.one.config.current.version, 2)
        self.assert_same()


class Losing(Case):
    def test_the_age_of_what_is_known_counts_from_the_last_word(self):
        self.world.clock.pump([0.5] * 10)
        self.assertLessEqual(self.other.following.stale_s, 1)
        self.other.link.cut = True
        self.other.link.lose_watch()
        self.world.clock.pump([0.5] * 10)
        self.assertGreaterEqual(self.other.following.stale_s, 5)
        self.other.link.cut = False
        self.world.clock.pump([0.5] * 12)
        self.assertLessEqual(self.other.following.stale_s, 1)

    def test_who_was_cut_off_takes_what_happened_meanwhile_removals_included(self):
        gone = self.create("gone")
        self.do(self.one.users.create("anna", Role.ADMIN, PASSWORD))
        self.do(self.one.users.create("berta", Role.ADMIN, PASSWORD))
        self.other.link.cut = True
        self.other.link.lose_watch()
        self.do(self.one.engines.delete(gone.uuid))
        self.create("new")
        self.do(self.one.users.delete("anna"))
        self.do(self.one.config.apply([pool()], "tester"))
        self.other.link.cut = False
        self.world.clock.pump([0.5] * 12)
        self.assert_same()
        self.assertIn(("user", "anna"), self.other.told[-4:])

    def test_stopped_it_takes_no_more(self):
        self.other.stop()
        self.create()
        self.assertEqual(self.other.engines.all(), ())


class Compacted(Case):
    def setUp(self):
        super().setUp()
        self.world = World(max_history=3)
        self.addCleanup(self.world.stop)
        self.one, self.other = self.world.all

    def test_a_history_that_is_gone_is_listed_again(self):
        for number in range(5):  # more than the history has, within one turn
            self.world.store.transact([], [Delete("none")])
            self.one.do(self.one.images.add(image(f"image-{number}")))
        self.assert_same()
        self.assertEqual(len(self.other.images.all()), 5)


def image(name):
    return ImageRecord(id=ImageId(name), key=KEY, expires_at=4e9)


STEPS = st.tuples(
    st.integers(0, 1),  # which controller
    st.sampled_from(
        [
            "create",
            "disable",
            "enable",
            "delete",
            "token",
            "revoke",
            "image",
            "unimage",
            "user",
            "role",
            "unuser",
            "access",
            "unaccess",
            "apply",
            "unapply",
            "hour",
            "turn",
            "turn",
            "hold",
            "go",
            "lose",
            "answers",
        ]
    ),
    st.integers(0, 3),  # which thing
)


class Property(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.lists(STEPS, min_size=20, max_size=60), st.sampled_from([3, 10_000]))
    def test_two_controllers_end_equal_and_equal_to_a_fresh_start(self, steps, max_history):
        with patch.object(users, "hashed", lambda password: ("00", "00")):
            world = World(max_history=max_history)
            for who, what, number in steps:
                self.step(world, world.all[who], what, number)
            for one in world.all:
                one.link.loses_answers = False
                one.link.let_go()
            world.clock.pump([1.0] * 8)
            world.settle()
            fresh = world.fresh().knows
            for one in world.all:
                self.assertEqual(one.knows, fresh)
            self.told_as_it_is(world)
            world.stop()
            self.flushLoggedErrors()

    def told_as_it_is(self, world):
        """Listeners that keep the last they were told have what there is."""
        for one in world.all:
            last = {after.uuid: after for kind, *rest in one.told if kind == "se" for after in rest[1:]}
            held = {se: held.record for se, held in one.engines.index._held.items()}
            self.assertEqual(
                {se: last[se] for se in held if se in last}, {s: held[s] for s in held if s in last}
            )
            chain = {}
            for kind, *rest in one.told:
                if kind == "se":
                    before, after = rest
                    self.assertEqual(chain.get(after.uuid, before), before)
                    chain[after.uuid] = after

    def step(self, world, one, what, number):
        name, chosen = f"name-{number}", one_of([record.uuid for record in one.engines.all()], number)
        match what:
            case "create":
                one.do(one.engines.create(name, "Default-Group"))
            case "disable" | "enable":
                one.do(one.engines.change(chosen, lambda record: noted(record, what)))
            case "delete":
                one.do(one.engines.delete(chosen))
            case "token":
                one.do(one.tokens.issue("web", 1 + number))
            case "revoke":
                one.do(one.tokens.revoke(one_of(one.tokens._tokens, number)))
            case "image":
                one.do(one.images.add(image(name)))
            case "unimage":
                one.do(one.images.revoke(one_of(one.images._records, number)))
            case "user":
                one.do(one.users.create(name, Role.ADMIN, PASSWORD))
            case "role":
                one.do(
                    one.users.set_role(
                        one_of(one.users._held, number), Role.READ_ONLY if number % 2 else Role.ADMIN
                    )
                )
            case "unuser":
                one.do(one.users.delete(one_of(one.users._held, number)))
            case "access":
                one.do(one.access.create(Owner(user="anna", uid="1"), name, Role.ADMIN, HOUR_S))
            case "unaccess":
                one.do(one.access.revoke_of("anna"))
            case "apply":
                one.do(one.config.apply([pool(name, 80 + len(one.told))], "tester"))
            case "unapply":
                one.do(one.config.delete("pool", name, "tester"))
            case "hour":
                world.clock.advance(HOUR_S)
            case "turn":
                world.clock.advance(0)
            case "hold":
                one.link.hold()
            case "go":
                one.link.let_go()
            case "lose":
                one.link.lose_watch()
            case "answers":
                one.link.loses_answers = not one.link.loses_answers


def one_of(names, number):
    """One that there is, if there is any."""
    found = sorted(names)
    return found[number % len(found)] if found else "none"


def noted(record, note):
    return msgspec.structs.replace(record, note=note + record.note[:20])
