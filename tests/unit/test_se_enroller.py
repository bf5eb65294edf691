"""The SE's side of enrolment: files before steps, the same bytes until answered, secrets destroyed after."""

import base64
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from unittest import mock

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ids import ClusterId, ImageId, SeId
from avinet.model.membership import Membership
from avinet.se.enroller import (
    Enroller,
    EnrolmentFailedError,
    NoImageError,
    NoMetaInfoError,
    read_enrolled,
)
from avinet.se.identity import SeIdentity
from avinet.se.membership import MembershipFile
from avinet.se.paths import SePaths, StateDamagedError, lock_state
from avinet.se.registration_client import Answer
from avinet.ssh.backoff import Backoff
from avinet.trust import files, keys
from avinet.trust.files import private_dir, write_private, write_public
from avinet.trust.locks import StateFolderBusyError
from avinet.trust.membership import sign_membership
from avinet.trust.registration import open_request
from avinet.wire.registration import EnrolmentAnswer, MetaInfo, registration_addresses
from tests.unit.enrolment_kit import CLUSTER, IMAGE, Site, run

BACKOFF_CAP_S = 60.0
ADDRESS = "192.0.2.1:8443"


class CrashError(Exception):
    """The process ended here."""


class Authority:
    """A root, and lists that it signed."""

    def __init__(self, cluster=CLUSTER):
        self.cluster = cluster
        self.key = keys.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), 1)
        builder = builder.not_valid_before(datetime(2000, 1, 1, tzinfo=UTC)).not_valid_after(
            datetime(2100, 1, 1, tzinfo=UTC)
        )
        self.pem = builder.sign(self.key, None).public_bytes(Encoding.PEM)

    def document(self, number=1, cluster=None):
        return sign_membership(
            self.key, Membership(cluster=ClusterId(cluster or self.cluster), number=number, controllers=())
        )


class Controller:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def enrol(self, address, body):
        self.asked.append((address, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def membership(self, address):
        self.asked.append((address, None))
        return succeed(self.answers[0])


class Machine(SynchronousTestCase):
    def setUp(self):
        self.authority = Authority()
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.paths = SePaths(Path(tempfile.mkdtemp(prefix="avinet-test-")) / "state")
        self.image_key = keys.generate()
        for folder in (self.paths.state, self.paths.image, self.paths.enrolment):
            private_dir(folder)
        write_public(self.paths.root_certificate, self.authority.pem)
        write_public(self.paths.membership, self.authority.document(3).encode())
        keys.save(self.paths.image_key, self.image_key)
        self.tell("avt1.abc.secret-of-the-token")

    def tell(self, token, cluster=CLUSTER):
        meta = MetaInfo(cluster=cluster, controllers=(ADDRESS,), token=token)
        write_private(self.paths.meta_info, msgspec.json.encode(meta))

    def yes(self, number=3, cluster=CLUSTER):
        answer = EnrolmentAnswer(
            se=SeId("se-1"),
            name="one",
            group="web",
            cluster=cluster,
            loopback="127.1.0.1",
            membership=self.authority.document(number, cluster),
        )
        return Answer(200, msgspec.json.encode(answer))

    def enroller(self, controller, image=IMAGE):
        return Enroller(
            self.paths,
            image,
            controller,
            MembershipFile.load(self.paths),
            self.clock,
            Backoff(Random(1).random),
        )

    def begin(self, controller, image=IMAGE):
        return self.enroller(controller, image).enrol()

    def problem(self, status, text="because"):
        return Answer(status, json.dumps({"detail": text}).encode())


class Enrolling(Machine):
    def test_an_answer_is_kept_and_the_means_are_destroyed(self):
        facts = self.successResultOf(self.begin(Controller(self.yes(4))))
        self.assertEqual("se-1", facts.se)
        self.assertEqual(facts, read_enrolled(self.paths))
        self.assertEqual(4, MembershipFile.load(self.paths).current.number)
        self.assertFalse(self.paths.image_key.exists())
        self.assertFalse(self.paths.request.exists())
        left = b"".join(p.read_bytes() for p in self.paths.state.rglob("*") if p.is_file())
        self.assertNotIn(b"secret-of-the-token", left)

    def test_the_request_is_on_disk_before_it_is_sent_and_proves_both_keys(self):
        controller = Controller(self.yes())
        enrol = controller.enrol
        controller.enrol = lambda address, body: (
            self.assertEqual(body, self.paths.request.read_bytes()),
            enrol(address, body),
        )[1]
        self.successResultOf(self.begin(controller))
        claims = open_request(controller.asked[0][1], lambda image: self.image_key.public_key())
        identity = SeIdentity.load_or_create(self.paths)
        self.assertEqual((identity.se_line, identity.host_line), (claims.se_key, claims.se_host_key))
        self.assertEqual((CLUSTER, IMAGE), (claims.cluster, claims.image))

    def test_an_enrolled_machine_asks_nobody_again(self):
        self.successResultOf(self.begin(Controller(self.yes())))
        controller = Controller(self.problem(500))
        self.assertEqual("se-1", self.successResultOf(self.begin(controller)).se)
        self.assertEqual([], controller.asked)

    def test_it_asks_for_ever_with_the_same_bytes(self):
        controller = Controller(
            Refused(),
            self.problem(503),
            self.problem(500),
            self.problem(507),
            Answer(202, b"{}", 15.0),
            self.yes(),
        )
        done = self.begin(controller)
        for _ in range(5):
            self.assertNoResult(done)
            self.clock.advance(BACKOFF_CAP_S)
        self.successResultOf(done)
        self.assertEqual(1, len({body for _, body in controller.asked}))
        self.assertEqual(6, len(controller.asked))

    def test_a_wait_that_the_controller_names_is_kept(self):
        controller = Controller(Answer(429, b"{}", 300.0), self.yes())
        done = self.begin(controller)
        self.clock.advance(299)
        self.assertNoResult(done)
        self.clock.advance(76)
        self.successResultOf(done)

    def test_a_wait_is_bounded_whatever_the_controller_says(self):
        done = self.begin(Controller(Answer(503, b"{}", 1e9), self.yes()))
        self.clock.advance(3602)
        self.successResultOf(done)

    def test_a_refusal_for_good_ends_it_with_the_reason(self):
        for status in (400, 403, 409, 410):
            failure = self.failureResultOf(
                self.begin(Controller(self.problem(status, "spent"))), EnrolmentFailedError
            )
            self.assertIn("spent", str(failure.value))
            self.assertIn(ADDRESS, str(failure.value))
            self.assertTrue(self.paths.request.exists())

    def test_a_refused_request_of_earlier_meta_info_is_signed_anew(self):
        self.failureResultOf(self.begin(Controller(self.problem(403))), EnrolmentFailedError)
        self.tell("avt1.def.another")
        controller = Controller(self.problem(403), self.yes())
        self.successResultOf(self.begin(controller))
        payload = json.loads(controller.asked[1][1])["payload"]
        self.assertEqual("avt1.def.another", json.loads(base64.urlsafe_b64decode(payload + "=="))["token"])

    def test_a_request_of_earlier_meta_info_that_was_bound_is_answered(self):
        done = self.begin(Controller(Refused()))
        done.addErrback(lambda _: None)
        done.cancel()
        self.tell("avt1.def.another")
        controller = Controller(self.yes())
        self.successResultOf(self.begin(controller))
        payload = json.loads(controller.asked[0][1])["payload"]
        self.assertIn(b"avt1.abc", base64.urlsafe_b64decode(payload + "=="))

    def test_an_answer_for_another_cluster_or_with_an_older_list_is_not_believed(self):
        for answer in (self.yes(cluster="other"), self.yes(2), Answer(200, b"garbage"), Answer(200, b"{}")):
            controller = Controller(answer)
            done = self.begin(controller)
            self.assertNoResult(done)
            self.assertFalse(self.paths.enrolled.exists())
            self.assertTrue(self.paths.image_key.exists())
            done.addErrback(lambda _: None)
            done.cancel()

    def test_damaged_meta_info_is_named_before_the_enrolment_and_of_no_matter_after_it(self):
        whole = self.paths.meta_info.read_bytes()
        write_private(self.paths.meta_info, whole[:-9])
        controller = Controller(self.yes())
        failed = self.failureResultOf(self.begin(controller), StateDamagedError)
        self.assertIn("meta-info.json", str(failed.value))
        self.assertEqual([], controller.asked)
        write_private(self.paths.meta_info, whole)
        self.successResultOf(self.begin(controller))
        write_private(self.paths.meta_info, whole[:-9])
        self.assertEqual("se-1", self.successResultOf(self.begin(controller)).se)
        self.assertFalse(self.paths.meta_info.exists())

    def test_without_meta_info_or_image_it_says_what_is_missing(self):
        self.paths.image_key.unlink()
        self.failureResultOf(self.begin(Controller(self.yes())), NoImageError)
        self.paths.meta_info.unlink()
        self.failureResultOf(self.begin(Controller(self.yes())), NoMetaInfoError)

    def test_damaged_state_is_named(self):
        write_private(self.paths.enrolled, b"{")
        with self.assertRaises(StateDamagedError) as caught:
            read_enrolled(self.paths)
        self.assertIn("enrolled.json", str(caught.exception))
        self.paths.membership.write_text("rubbish")
        with self.assertRaises(StateDamagedError):
            MembershipFile.load(self.paths)
        self.paths.root_certificate.unlink()
        with self.assertRaises(StateDamagedError):
            MembershipFile.load(self.paths)

    def test_cancelling_stops_the_asking(self):
        done = self.begin(Controller(Refused()))
        done.addErrback(lambda _: None)
        done.cancel()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_an_ipv6_controller_is_asked_by_its_bracketed_address(self):
        from avinet.model.membership import Controller as Member

        member = Member(
            name="c", addresses=("2001:db8::1", "host"), node_certificate="", ssh_host_key="", id_se=""
        )
        membership = Membership(cluster=CLUSTER, number=1, controllers=(member,))
        self.assertEqual(("[2001:db8::1]:8443", "host:8443"), registration_addresses(membership))


class CrashesEverywhere(Machine):
    """The machine dies at each write or removal of a file in turn; a real controller answers."""

    def setUp(self):
        super().setUp()
        self.site = Site()
        run(
            self.site.images.add(
                msgspec.structs.replace(
                    self.site.image_record(),
                    id=ImageId("image-2"),
                    key=keys.public_line(self.image_key.public_key()),
                )
            )
        )
        self.made, token = run(self.site.engines.create("se-1", "web"))
        self.tell(token.text)

    def ask(self, address, body):
        record = self.site.enrol(body)
        answer = EnrolmentAnswer(
            se=record.uuid,
            name=record.name,
            group=record.group,
            cluster=CLUSTER,
            loopback=record.loopback,
            membership=self.authority.document(5),
        )
        return succeed(Answer(200, msgspec.json.encode(answer)))

    def run_until_crash(self, step, *, before, lose_answer):
        """One life of the agent; it ends at the ``step``-th change of the file system."""
        count = [0]

        def crashing(real):
            def act(*args):
                mine, count[0] = count[0], count[0] + 1
                if mine == step and before:
                    raise CrashError
                result = real(*args)
                if mine == step:
                    raise CrashError
                return result

            return act

        controller = Controller(None)
        controller.enrol = self.ask
        if lose_answer:
            controller.enrol = lambda address, body: (self.ask(address, body), fail(CrashError()))[1]
        patches = [
            mock.patch.object(files, "_write", crashing(files._write)),
            mock.patch("avinet.se.enroller.destroy", crashing(files.destroy)),
        ]
        for patch in patches:
            patch.start()
        try:
            done = self.begin(controller, ImageId("image-2"))
        finally:
            for patch in patches:
                patch.stop()
        outcome = []
        done.addBoth(outcome.append)
        if not outcome:
            done.cancel()
        return count[0]

    def enrolled_once(self):
        controller = Controller(None)
        controller.enrol = self.ask
        facts = self.successResultOf(self.begin(controller, ImageId("image-2")))
        self.assertEqual(self.made.uuid, facts.se)
        self.assertEqual([self.made.uuid], [record.uuid for record in self.site.engines.all()])
        self.assertEqual(
            SeIdentity.load_or_create(self.paths).se_line, self.site.engines.find(self.made.uuid).se_key
        )
        self.assertFalse(self.paths.image_key.exists())
        self.assertFalse(self.paths.request.exists())
        self.assertNotIn(b"avt1.", self.paths.meta_info.read_bytes())

    def test_it_ends_up_enrolled_exactly_once(self):
        for before in (True, False):
            step = 0
            while True:
                self.setUp()
                steps = self.run_until_crash(step, before=before, lose_answer=False)
                self.enrolled_once()
                if steps <= step:
                    break
                step += 1
            self.assertGreaterEqual(step, 8)

    def test_a_lost_answer_is_asked_for_again(self):
        self.run_until_crash(-1, before=True, lose_answer=True)
        self.assertFalse(self.paths.enrolled.exists())
        self.enrolled_once()

    def test_a_full_disk_is_survived(self):
        self.begin(Controller(Refused()), ImageId("image-2")).addErrback(lambda _: None).cancel()
        controller = Controller(None)
        controller.enrol = self.ask
        with mock.patch(
            "avinet.se.enroller.write_private", side_effect=files.DiskFullError(path=self.paths.enrolled)
        ):
            done = self.begin(controller, ImageId("image-2"))
            self.assertNoResult(done)
        self.clock.advance(BACKOFF_CAP_S)
        self.successResultOf(done)
        self.assertIsNotNone(read_enrolled(self.paths))


class Lists(Machine):
    def test_a_newer_list_is_kept_and_told(self):
        members, heard = MembershipFile.load(self.paths), []
        members.listen(lambda membership: heard.append(membership.number))
        answer = Answer(200, self.authority.document(9).encode())
        member = mock.Mock(addresses=("192.0.2.1",), registration_port=8443)
        members.current = Membership(cluster=CLUSTER, number=3, controllers=(member,))
        self.assertTrue(self.successResultOf(members.refresh(Controller(answer))))
        self.assertFalse(
            self.successResultOf(members.refresh(Controller(answer)))
            if members.current.controllers
            else False
        )
        self.assertEqual([9], heard)
        self.assertEqual(9, MembershipFile.load(self.paths).current.number)

    def test_a_list_of_another_root_or_unreachable_controllers_change_nothing(self):
        members = MembershipFile.load(self.paths)
        member = mock.Mock(addresses=("192.0.2.1",), registration_port=8443)
        members.current = Membership(cluster=CLUSTER, number=3, controllers=(member,))
        for answer in (
            Answer(200, Authority().document(9).encode()),
            Answer(200, b"\xff"),
            Answer(404, b""),
            Answer(200, self.authority.document(2).encode()),
        ):
            self.assertFalse(self.successResultOf(members.refresh(Controller(answer))))
        unreachable = Controller(None)
        unreachable.membership = lambda address: fail(Refused())
        self.assertFalse(self.successResultOf(members.refresh(unreachable)))
        self.assertEqual(3, MembershipFile.load(self.paths).current.number)


class Locks(SynchronousTestCase):
    def test_two_agents_on_one_state_folder_are_told_apart(self):
        paths = SePaths(Path(tempfile.mkdtemp(prefix="avinet-test-")) / "state")
        lock = lock_state(paths)
        with self.assertRaises(StateFolderBusyError) as caught:
            lock_state(paths)
        self.assertIn(str(paths.state), str(caught.exception))
        lock.release()
        lock_state(paths).release()

    def test_keys_are_made_once(self):
        paths = SePaths(Path(tempfile.mkdtemp(prefix="avinet-test-")) / "state")
        first, second = SeIdentity.load_or_create(paths), SeIdentity.load_or_create(paths)
        self.assertEqual((first.se_line, first.host_line), (second.se_line, second.host_line))
        self.assertNotEqual(first.se_line, first.host_line)
        self.assertNotIn("PRIVATE", repr(first))


class Scaffolding(SynchronousTestCase):
    def test_a_deferred_that_waits_is_not_a_result(self):
        self.assertNoResult(Deferred())
