"""Who is let into etcd: its users and passwords, and members that come and go."""

from cryptography import x509
from twisted.internet.defer import Deferred, succeed

from avinet.controller.state_engine import MemberPortError, StateCaElsewhereError, StateEngine
from avinet.controller.state_engine_files import (
    EngineFiles,
)
from avinet.controller.state_engine_members import LearnerFirstError, Members
from avinet.controller.state_engine_users import enable_passwords
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller
from avinet.store.etcd_gateway import RefusedError
from avinet.trust.keys import generate
from avinet.trust.state_ca import belongs
from tests.unit.etcd_double import NAME, PLAN, FakeEtcd, WithEtcd
from tests.unit.quick_folder import quick_folder as folder
from tests.unit.trust_kit import CLUSTER


class Passwords(WithEtcd):
    def enable(self):
        return enable_passwords(self.etcd, lambda user: f"secret of {user}")

    def check(self):
        self.assertEqual(self.etcd.users, {"root": "secret of root", "avinet": "secret of avinet"})
        everything = ("avinet", "READWRITE", "AA==", "AA==")
        self.assertEqual(self.etcd.granted, {("root", "root"), ("avinet", "avinet"), everything})
        self.assertTrue(self.etcd.enabled)

    def test_two_users_are_made_and_asked_for(self):
        self.done(self.enable())
        self.check()
        asked = len(self.etcd.asked)
        self.done(self.enable())
        self.assertEqual(len(self.etcd.asked), asked + 1)

    def test_a_crash_after_any_step_is_gone_on_from(self):
        for cut_after in range(1, 30):
            self.etcd = FakeEtcd()
            self.etcd.cut_after = cut_after
            outcome = []
            Deferred.fromCoroutine(self.enable()).addBoth(outcome.append)
            self.etcd.cut_after = None
            self.done(self.enable())
            self.check()
            if outcome == [None]:
                self.assertGreater(cut_after, 7)
                return
            self.assertTrue(outcome[0].check(ZeroDivisionError))
        self.fail("it never came to its end")

    def test_passwords_of_a_start_before_are_replaced(self):
        self.etcd.users = {"root": "another", "avinet": "another"}
        self.done(self.enable())
        self.check()

    def test_another_password_than_etcds_is_refused(self):
        self.etcd.enabled, self.etcd.users = True, {"root": "another"}
        self.failureResultOf(Deferred.fromCoroutine(self.enable()), RefusedError)


class Growing(WithEtcd):
    def setUp(self):
        super().setUp()
        self.members = Members(self.etcd)

    def test_a_member_is_added_once_as_a_learner(self):
        for _ in range(2):
            after = self.done(self.members.add("u2"))
            self.assertEqual(
                [(one.peer_urls, one.learner) for one in after], [(("u1",), False), (("u2",), True)]
            )

    def test_a_learner_is_promoted_when_it_has_everything(self):
        self.etcd.caught_up = False
        learner = self.done(self.members.add("u2"))[1]
        self.assertFalse(self.done(self.members.promote(learner)))
        self.etcd.caught_up = True
        self.assertTrue(self.done(self.members.promote(learner)))
        self.assertFalse(any(one.learner for one in self.done(self.members.all())))

    def test_the_learner_before_is_waited_for_and_named(self):
        learner = self.done(self.members.add("u2"))[1]
        waiting = Deferred.fromCoroutine(self.members.add("u3"))
        self.etcd.clock.advance(0.5)
        self.assertNoResult(waiting)
        self.done(self.members.promote(learner))
        self.etcd.clock.advance(0.5)
        self.assertEqual(len(self.successResultOf(waiting)), 3)
        waiting = Deferred.fromCoroutine(self.members.add("u4"))
        self.etcd.clock.pump([0.5] * 41)
        self.assertIn("u3", str(self.failureResultOf(waiting, LearnerFirstError).value))

    def test_a_member_is_removed_once(self):
        self.done(self.members.add("u2"))
        for _ in range(2):
            self.done(self.members.remove("u2"))
            self.assertEqual(len(self.done(self.members.all())), 1)


class LettingIn(WithEtcd):
    def setUp(self):
        super().setUp()
        files = EngineFiles(folder(self) / "etcd")
        files.make_first(CLUSTER, NAME, PLAN.peer_url)
        self.etcd.members[0]["peerURLs"] = [PLAN.peer_url]
        self.engine = StateEngine(
            PLAN, files, self.etcd.clock, lambda *a, **b: None, lambda call, *a: succeed(call(*a))
        )
        self.engine.members_of = Members(self.etcd)

    def member(self, name="c2", port=22380):
        return Controller(
            name=ControllerName(name),
            addresses=("192.0.2.1",),
            node_certificate="",
            ssh_host_key="",
            id_se="",
            state_client_port=1,
            state_peer_port=port,
        )

    def admit(self, key, **facts):
        return self.done(self.engine.admit(self.member(**facts), key))

    def ids(self):
        return [one["ID"] for one in self.etcd.members]

    def test_a_member_gets_all_that_it_needs_and_the_same_again(self):
        key = generate().public_key()
        one, two = self.admit(key), self.admit(key)
        self.assertEqual(one.members, {"c1": PLAN.peer_url, "c2": "https://127.0.0.1:22380"})
        self.assertEqual((one.ca, one.passwords, one.members), (two.ca, two.passwords, two.members))
        ca = x509.load_pem_x509_certificate(one.ca.encode())
        self.assertTrue(belongs(two.certificate.encode(), ca, key))
        self.assertEqual(self.ids(), ["1", "2"])

    def test_one_that_comes_back_with_another_key_is_another_to_etcd(self):
        self.admit(generate().public_key())
        self.etcd.next_id = 9
        self.admit(generate().public_key())
        self.assertEqual(self.ids(), ["1", "9"])
        self.done(self.members_promoted())
        self.etcd.next_id = 10
        self.admit(generate().public_key(), port=32380)
        self.assertEqual([one["peerURLs"] for one in self.etcd.members[1:]], [["https://127.0.0.1:32380"]])

    async def members_promoted(self):
        for one in self.etcd.members:
            one["isLearner"] = False

    def test_a_port_of_another_members_is_refused(self):
        taken = self.engine.admit(self.member(port=PLAN.peer_port), generate().public_key())
        self.failureResultOf(Deferred.fromCoroutine(taken), MemberPortError)

    def test_a_member_that_never_ran_is_known_by_its_name_and_dismissed_by_it(self):
        self.admit(generate().public_key())
        self.assertEqual(self.done(self.engine.members()), ("c1", "c2"))
        for _ in range(2):
            self.done(self.engine.dismiss(ControllerName("c2")))
            self.assertEqual(self.done(self.engine.members()), ("c1",))

    def test_without_the_cas_key_nobody_is_let_in(self):
        self.engine.files.ca_key.unlink()
        self.failureResultOf(Deferred.fromCoroutine(self.engine.require()), StateCaElsewhereError)
