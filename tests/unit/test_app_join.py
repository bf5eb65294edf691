"""A machine joins by the command, and keeps its entry in the list true; the cluster answers in memory."""

import attrs
import msgspec
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.errors import ControllerUnreachableError
from avinet.app.cli.registration import ClusterTrust
from avinet.app.join import AlreadyControllerError, AnswerWrongError, Join
from avinet.app.list_lookout import LOOK_S, SOON_S, ListLookout
from avinet.app.own_entry import OwnEntry
from avinet.controller.join_tokens import JoinTokenSpentError
from avinet.controller.newcomers import NameTakenError, PortTakenError
from avinet.controller.root_holder import RootHolder, RootNowhereError
from avinet.errors import AvinetError
from avinet.model.ids import ControllerName
from avinet.rest.tls import CertificateRevokedError, CertificateUnlistedError
from avinet.store.interface import Delete
from avinet.trust import ca, files
from avinet.trust.bundle import Bundle
from avinet.trust.ca import RootKeyOfflineError, names_of
from avinet.trust.files import DiskFullError, write_private
from avinet.trust.image import MANIFEST_TYPE, Manifest
from avinet.trust.jose import verify_compact
from avinet.trust.keys import generate
from avinet.trust.membership import ControllerRemovedError, root_key_of, sign_membership
from avinet.trust.node import (
    ControllerIdentity,
    ControllerPaths,
    JoinUnfinishedError,
    NodeFacts,
)
from avinet.wire.registration import registration_addresses
from tests.unit.cluster_kit import Site
from tests.unit.enrolment_kit import run
from tests.unit.trust_kit import mode

FACTS = NodeFacts(
    name=ControllerName("c2"),
    addresses=("192.0.2.2",),
    ssh_port=22,
    registration_port=8443,
    reverse_port=5097,
    state_client_port=2399,
    state_peer_port=2400,
    api_names=("c2.example",),
)


class Engine:
    """The new controller's half of a state engine."""

    def __init__(self):
        self.made, self.taken = generate(), None

    def key(self):
        return self.made.public_key()

    def admitted(self, admission):
        self.taken = admission


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)
        self.paths = ControllerPaths(self.site.state.parent / "c2")
        self.engine, self.sent = Engine(), []
        self.lose = 0

    def ask(self, trust, addresses, body):
        self.sent.append((addresses, body))
        answer = run(self.site.joining.judge(body, "10.0.0.2"))
        if self.lose:
            self.lose -= 1
            raise ControllerUnreachableError(place="c1", why="told to", advice="")
        return answer

    def bundle(self, **more):
        members = self.site.members
        values = {
            "cluster": self.site.cluster,
            "root": self.site.identity.root_pem.decode(),
            "membership": members.document,
            "controllers": registration_addresses(members.current),
            "token": self.site.token(),
            "expires_at": 0.0,
        }
        return Bundle(**values | more)

    def join(self, bundle, **facts):
        return Join(
            self.paths, bundle, attrs.evolve(FACTS, **facts), self.engine, self.ask, self.site.clock.seconds
        ).run()

    def identity(self, **facts):
        return ControllerIdentity.init(self.paths.state, attrs.evolve(FACTS, **facts), sign=False)


class Joining(Case):
    def test_an_empty_folder_becomes_that_of_a_member(self):
        listed = self.join(self.bundle())
        self.assertEqual(listed, self.site.members.current)
        self.assertEqual(self.engine.taken.passwords, {"root": "pw"})
        made = self.identity()
        self.assertEqual((made.cluster, made.name, made.membership), (self.site.cluster, "c2", listed))
        self.assertEqual(made.me, listed.by_name("c2"))
        self.assertFalse(made.root.has_key)
        self.assertEqual(names_of(self.paths.api_pem.read_bytes()), {"c2.example"})
        self.assertFalse(self.paths.joining.exists())
        self.assertFalse(self.paths.root_key.exists())
        self.assertFalse(self.paths.admin_password.exists())
        for path in (self.paths.node_key, self.paths.id_controller, self.paths.api_key):
            self.assertEqual((mode(path), mode(path.parent)), (0o600, 0o700))

    def test_a_lost_answer_is_asked_for_with_the_same_bytes(self):
        bundle, self.lose = self.bundle(), 1
        self.assertRaises(ControllerUnreachableError, self.join, bundle)
        self.assertEqual(mode(self.paths.joining), 0o600)
        self.site.clock.advance(3_600)
        self.join(bundle)
        self.assertEqual(self.sent[0], self.sent[1])
        self.assertEqual(self.site.members.current.number, 2)

    def test_what_was_refused_is_asked_anew_with_other_settings_and_the_same_keys(self):
        bundle = self.bundle()
        self.assertRaises(NameTakenError, self.join, bundle, name=ControllerName("c1"))
        self.assertRaises(PortTakenError, self.join, bundle, state_peer_port=2379)
        self.join(bundle)
        self.assertEqual(self.site.names(), ["c1", "c2"])

    def test_a_controllers_folder_joins_nothing(self):
        bundle = self.bundle()
        self.join(bundle)
        failure = self.assertRaises(AlreadyControllerError, self.join, bundle)
        self.assertEqual((failure.name, failure.cluster), ("c2", self.site.cluster))

    def test_a_bundle_serves_one_folder(self):
        bundle = self.bundle()
        self.join(bundle)
        self.paths = ControllerPaths(self.site.state.parent / "c3")
        self.assertRaises(JoinTokenSpentError, self.join, bundle)

    def test_until_it_has_joined_no_controller_starts_there(self):
        self.lose = 1
        self.assertRaises(ControllerUnreachableError, self.join, self.bundle())
        failure = self.assertRaises(JoinUnfinishedError, self.identity)
        self.assertIn("avinet cluster join", str(failure))

    def test_an_answer_that_is_not_the_clusters_is_not_kept(self):
        for odd in (
            {"membership": self.site.members.document},
            {"membership": "a.b.c"},
            {"state": None},
            {"name": "c1"},
        ):
            real = self.ask

            def wrong(*args, real=real, odd=odd):
                return msgspec.structs.replace(real(*args), **odd)

            join = Join(self.paths, self.bundle(), FACTS, self.engine, wrong, self.site.clock.seconds)
            self.assertRaises(AnswerWrongError, join.run)
            self.assertFalse(self.paths.cluster.exists())
            run(self.site.removal.remove("c2"))

    def test_a_disk_that_fails_at_each_file_leaves_a_folder_that_goes_on(self):
        bundle, count = self.bundle(), 0
        real = files._write
        while not self.paths.cluster.exists():
            count += 1
            left = [count]

            def full(path, data, permissions, left=left):
                left[0] -= 1
                if not left[0]:
                    raise DiskFullError(path=path)
                real(path, data, permissions)

            patcher = self.patch(files, "_write", full)
            try:
                self.join(bundle)
            except DiskFullError:
                self.assertRaises(AvinetError, self.identity) if self.paths.joining.exists() else None
            finally:
                patcher.restore()
        self.assertGreater(count, 5)
        self.assertEqual(self.site.members.current.number, 2)
        self.assertEqual(self.identity().me, self.site.members.current.by_name("c2"))


class Telling(Case):
    """``c2`` is a member, without the root key, on the same store."""

    def setUp(self):
        super().setUp()
        self.join(self.bundle())
        self.sent.clear()
        self.start()

    def start(self, **facts):
        self.me = self.identity(**facts)
        self.members = self.site.members_of("c2", self.me, self.paths.membership)
        run(self.members.open(self.site.store))
        self.entry = OwnEntry(
            RootHolder(self.members, self.me.root, self.site.clock),
            attrs.evolve(FACTS, **facts),
            execute,
            self.ask,
            self.site.clock.seconds,
        )

    def agree(self):
        run(self.entry.agree(self.me))

    def test_what_is_true_asks_nobody(self):
        self.agree()
        self.assertEqual(self.sent, [])

    def test_changed_facts_are_asked_of_the_root_holder_alone(self):
        self.start(ssh_port=2222)
        self.agree()
        ((addresses, _),) = self.sent
        self.assertEqual(addresses, ("192.0.2.1:8443",))
        self.assertEqual(self.site.members.current.by_name("c2").ssh_port, 2222)
        self.assertEqual(self.members.current, self.site.members.current)
        self.agree()
        self.assertEqual(len(self.sent), 1)

    def test_a_certificate_that_nears_its_end_is_asked_for_and_on_disk_at_once(self):
        before = self.me.node_pem
        self.patch(ca, "NODE_DAYS", 10_000)
        self.site.clock.advance(330 * 86400)
        self.agree()
        after = self.identity()
        self.assertNotEqual(after.node_pem, before)
        self.assertEqual(after.node_pem, self.paths.node_pem.read_bytes())
        self.assertEqual(after.node_pem.decode(), self.members.current.by_name("c2").node_certificate)

    def test_an_image_that_it_builds_is_signed_by_the_root_holder(self):
        def ask(trust, addresses, body):
            self.assertEqual(addresses, ("192.0.2.1:8443",))
            return run(self.site.signing.judge(body, "10.0.0.2"))

        self.entry.ask_signature = ask
        now = self.site.clock.seconds()
        manifest = msgspec.json.encode(
            Manifest(
                image="i",
                cluster=self.site.cluster,
                software="1",
                created_at=now,
                expires_at=now,
                members=(),
            )
        )
        signed = run(self.entry.signed(self.me, manifest))
        root = root_key_of(self.me.root.certificate)
        self.assertEqual(verify_compact(signed, root, MANIFEST_TYPE), manifest)

    def test_new_names_of_the_api_are_certified_without_a_new_list(self):
        number = self.members.current.number
        self.start(api_names=("other.example",))
        self.agree()
        self.assertEqual(names_of(self.paths.api_pem.read_bytes()), {"other.example"})
        self.assertEqual(self.members.current.number, number)

    def test_an_operators_own_api_certificate_is_left_alone(self):
        other = Site(self)
        for name in ("api_key", "api_pem"):
            theirs = getattr(ControllerPaths(other.state), name).read_bytes()
            write_private(getattr(self.paths, name), theirs)
        self.agree()
        self.assertEqual(self.sent, [])

    def test_without_a_root_holder_it_says_so(self):
        run(self.site.store.transact([], [Delete("root-holder")]))
        self.start(ssh_port=2222)
        self.assertRaises(RootNowhereError, self.agree)

    def test_a_root_key_that_is_brought_makes_it_the_holder(self):
        files.write_private(self.paths.root_key, self.site.identity.paths.root_key.read_bytes())
        self.start(ssh_port=2222)
        self.agree()
        self.assertEqual(self.sent, [])
        self.assertEqual(self.members.current.by_name("c2").ssh_port, 2222)
        self.assertEqual(run(self.site.holder.name()), "c1")
        self.assertEqual(run(self.site.store.get("root-holder")).value, b"c2")

    def test_alone_again_it_needs_the_root_for_what_changes_and_for_nothing_else(self):
        gone = msgspec.structs.replace(
            self.members.current, number=9, controllers=(self.members.current.by_name("c2"),)
        )
        run(self.members.take(sign_membership(self.site.identity.root.key, gone)))
        self.agree()
        self.me = self.identity(ssh_port=2222)
        self.assertRaises(RootKeyOfflineError, self.agree)


class Away(Case):
    """``c2`` was away while the list changed."""

    def setUp(self):
        super().setUp()
        self.join(self.bundle())
        self.me = self.identity()
        self.members = self.site.members_of("c2", self.me, self.paths.membership)
        self.asked, self.down = [], False
        self.lookout = ListLookout(
            self.members, self.me.root_pem.decode(), self.site.clock, execute, self.fetch
        )
        self.addCleanup(self.lookout.stop)

    def fetch(self, trust, address):
        self.asked.append(address)
        if self.down:
            raise ControllerUnreachableError(place=address, why="told to", advice="")
        return self.site.members.document

    def test_it_hears_without_any_store_that_it_was_removed_and_does_not_start_again(self):
        self.down = True
        self.lookout.start()
        run(self.site.removal.remove("c2"))
        self.down = False
        self.site.clock.advance(LOOK_S)
        self.assertFalse(self.members.is_member)
        self.assertEqual(self.asked, ["192.0.2.1:8443"] * 2)
        failure = self.assertRaises(ControllerRemovedError, self.identity)
        self.assertEqual((failure.name, failure.number), ("c2", 3))

    def test_a_link_that_is_lost_makes_it_look_at_once_and_once(self):
        self.lookout.start()
        run(self.site.removal.remove("c2"))
        for name in ("c1", "c3"):
            self.lookout.peer_down(name, "it was cut")
        self.site.clock.advance(SOON_S)
        self.assertFalse(self.members.is_member)
        self.assertEqual(len(self.asked), 2)
        self.lookout.stop()
        self.lookout.peer_down("c1", "it was cut")
        self.site.clock.advance(LOOK_S)
        self.assertEqual(len(self.asked), 2)

    def test_a_list_that_is_no_newer_or_not_signed_is_nothing(self):
        self.lookout.start()
        self.patch(self.site.members.held.__class__, "document", "a.b.c")
        self.site.clock.advance(LOOK_S)
        self.assertTrue(self.members.is_member)

    def test_a_removed_ones_certificate_is_refused_and_an_unknown_ones_too(self):
        der = ca.x509.load_pem_x509_certificate(self.me.node_pem).public_bytes(ca.Encoding.DER)
        root = self.me.root_pem.decode()
        ClusterTrust(root, self.site.members.current).check(der)
        run(self.site.removal.remove("c2"))
        trust = ClusterTrust(root, self.site.members.current)
        self.assertRaises(CertificateRevokedError, trust.check, der)
        self.assertRaises(CertificateRevokedError, trust.unlisted().check, der)
        first = ClusterTrust(root, self.site.identity.membership)
        self.assertRaises(CertificateUnlistedError, first.check, der)
        first.unlisted().check(der)
