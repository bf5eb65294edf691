import contextlib
import errno
import os

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.ids import ControllerName
from avinet.trust import files, keys, local_list, node
from avinet.trust.ca import RootKeyLockedError, RootKeyOfflineError, bears_key, names_of, serial_of
from avinet.trust.files import DiskFullError, FileExposedError
from avinet.trust.jose import sign_compact
from avinet.trust.membership import (
    MEMBERSHIP_TYPE,
    ControllerRemovedError,
    sign_membership,
    verify_membership,
)
from avinet.trust.node import (
    Admin,
    ControllerIdentity,
    ControllerPaths,
    IdentityDamagedError,
    NodeFacts,
    NotInitialisedError,
    password_hash,
    read_cluster,
)
from tests.unit.trust_kit import folder, mode

FACTS = NodeFacts(
    name=ControllerName("controller-1"),
    addresses=("192.0.2.1",),
    ssh_port=22,
    registration_port=8443,
    reverse_port=5097,
)
SECRET_FILES = (
    "root_key",
    "node_key",
    "host_key",
    "id_se",
    "id_controller",
    "api_key",
    "admin",
    "admin_password",
)


def cheap_hash(password, salt, n=0, r=0, p=0):
    return b"\0" * 32


class Case(SynchronousTestCase):
    def setUp(self):
        self.state = folder(self) / "state"
        self.paths = ControllerPaths(self.state)
        self.patch(node, "password_hash", cheap_hash)  # 80 ms each otherwise

    def init(self, passphrase=None, **changes):
        return ControllerIdentity.init(self.state, attrs.evolve(FACTS, **changes), passphrase)

    def contents(self):
        return {str(p): p.read_bytes() for p in self.state.rglob("*") if p.is_file()}


class Making(Case):
    def test_everything_is_made_and_agrees(self):
        made = self.init()
        me = made.membership.by_name("controller-1")
        self.assertEqual(made.membership.number, 1)
        self.assertEqual(me.node_certificate.encode(), made.node_pem)
        self.assertEqual(me.ssh_host_key, keys.public_line(made.host_key.public_key()))
        self.assertEqual(me.id_se, keys.public_line(made.id_se.public_key()))
        self.assertEqual(me.id_controller, keys.public_line(made.id_controller.public_key()))
        self.assertTrue(bears_key(made.node_pem, made.node_key.public_key()))
        self.assertTrue(made.root.issued(made.node_pem))
        self.assertTrue(made.root.issued(self.paths.api_pem.read_bytes()))
        listed = verify_membership(made.membership_document, made.root.certificate, made.cluster)
        self.assertEqual(listed, made.membership)
        self.assertEqual(read_cluster(self.state), (made.cluster, "controller-1"))

    def test_secrets_are_0600_in_0700_folders(self):
        self.init()
        for name in SECRET_FILES:
            path = getattr(self.paths, name)
            self.assertEqual(mode(path), 0o600, name)
            self.assertEqual(mode(path.parent), 0o700, name)

    def test_again_nothing_changes(self):
        first = self.init()
        before = self.contents()
        again = self.init()
        self.assertEqual(self.contents(), before)
        self.assertEqual((again.cluster, again.membership), (first.cluster, first.membership))

    def test_the_api_key_is_p_256_since_browsers_refuse_ed25519(self):
        self.init()
        key = load_pem_private_key(self.paths.api_key.read_bytes(), None)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        self.assertEqual(names_of(self.paths.api_pem.read_bytes()), {"localhost", "127.0.0.1", "::1"})

    def test_nothing_secret_is_in_a_repr(self):
        made = self.init()
        password = self.paths.admin_password.read_text().strip()
        shown = repr(made) + str(made)
        for secret in ("PrivateKey", password, made.admin.hash, made.admin.salt):
            self.assertNotIn(secret, shown)

    def test_the_password_kept_apart_is_the_one_that_verifies(self):
        self.patch(node, "password_hash", password_hash)
        admin = self.init().admin
        password = self.paths.admin_password.read_text().strip()
        salt = bytes.fromhex(admin.salt)
        self.assertEqual(password_hash(password, salt, admin.n, admin.r, admin.p).hex(), admin.hash)
        self.assertNotEqual(password_hash(password + "x", salt).hex(), admin.hash)
        self.assertNotIn(password, self.paths.admin.read_text())

    def test_a_folder_of_nobody_says_how_to_make_one(self):
        failure = self.assertRaises(NotInitialisedError, read_cluster, self.state)
        self.assertIn("avinet init", str(failure))


class Crashes(Case):
    """Every step that touches the disk fails in turn; the next call must go on, and end in one truth."""

    STEPS = ("open", "write", "fchmod", "fsync")

    def fail_at(self, step, count, kill):
        """Make the ``count``-th call of os.``step`` fail; ``kill`` ends the process there, without clean-up."""
        real, calls = getattr(os, step), []

        def sometimes(*args, **kwargs):
            calls.append(1)
            if len(calls) == count:
                if kill:
                    raise Killed
                raise OSError(errno.ENOSPC, "full")
            return real(*args, **kwargs)

        return self.patch(files.os, step, sometimes)

    def crash_everywhere(self, kill):
        for step in self.STEPS:
            count, done = 0, False
            while not done:
                count += 1
                self.state = folder(self) / "state"
                self.paths = ControllerPaths(self.state)
                patcher = self.fail_at(step, count, kill)
                try:
                    self.init()
                    done = True
                except (Killed, DiskFullError):
                    pass
                finally:
                    patcher.restore()
                self.assertLess(count, 200)
                with self.subTest(step=step, count=count):
                    self.goes_on()
            self.assertGreater(count, 10, f"os.{step} was hardly called")

    def goes_on(self):
        kept = {name: p.read_bytes() for name in node._FILES if (p := getattr(self.paths, name)).is_file()}
        made = self.init()
        for name, data in kept.items():
            # The password may be made again until the hash that belongs to it is there.
            if name != "admin_password" or "admin" in kept:
                self.assertEqual(getattr(self.paths, name).read_bytes(), data, name)
        self.assertTrue(made.root.issued(made.node_pem))
        self.assertTrue(bears_key(made.node_pem, made.node_key.public_key()))
        me = made.membership.by_name("controller-1")
        self.assertEqual(me.node_certificate.encode(), made.node_pem)
        self.assertEqual(made.membership.number, 1)
        self.assertTrue(self.paths.admin_password.exists())
        self.assertEqual(list(self.state.rglob("*.new")), [])
        before = self.contents()
        self.init()
        self.assertEqual(self.contents(), before)

    def test_a_full_disk_at_any_step(self):
        self.crash_everywhere(kill=False)

    def test_a_kill_at_any_step(self):
        self.crash_everywhere(kill=True)

    def test_a_kill_between_any_two_files(self):
        for name in ("write_private", "write_public"):
            real = getattr(files, name)
            for module in ("node", "local_list", "ca", "keys"):
                target = __import__(f"avinet.trust.{module}", fromlist=[name])
                if not hasattr(target, name):
                    continue
                for count in range(1, 8):
                    self.state = folder(self) / "state"
                    self.paths = ControllerPaths(self.state)
                    calls = []

                    def then_die(path, data, real=real, count=count, calls=calls):
                        real(path, data)
                        calls.append(path)
                        if len(calls) == count:
                            raise Killed

                    patcher = self.patch(target, name, then_die)
                    with contextlib.suppress(Killed):
                        self.init()
                    patcher.restore()
                    with self.subTest(name=name, module=module, count=count):
                        self.goes_on()


class Killed(BaseException):
    """The process ends here."""


class Renewing(Case):
    def test_a_changed_address_or_port_makes_the_next_number(self):
        self.init()
        for number, change in enumerate(
            (
                {"addresses": ("192.0.2.2",)},
                {"ssh_port": 2222},
                {"registration_port": 9443},
                {"reverse_port": 5098},
            ),
            2,
        ):
            made = self.init(**{**attrs.asdict(FACTS), **change})
            self.assertEqual(made.membership.number, number)
            self.assertEqual(made.membership.revoked_serials, ())
            on_disk = verify_membership(self.paths.membership.read_text(), made.root.certificate)
            self.assertEqual(on_disk, made.membership)

    def test_a_certificate_about_to_end_is_issued_anew_and_the_old_one_revoked(self):
        before = self.init()
        self.patch(node, "RENEW_DAYS", 366.0)
        after = self.init()
        self.assertNotEqual(after.node_pem, before.node_pem)
        self.assertEqual(after.membership.number, 2)
        self.assertEqual(after.membership.revoked_serials, (serial_of(before.node_pem),))
        self.assertEqual(after.node_key.public_key(), before.node_key.public_key())

    def test_a_crash_between_certificate_and_list_revokes_what_was_listed(self):
        before = self.init()
        patcher = self.patch(node, "RENEW_DAYS", 366.0)

        def die(*args):
            raise Killed

        signer = self.patch(local_list, "sign_membership", die)
        self.assertRaises(Killed, self.init)
        patcher.restore()
        signer.restore()
        after = self.init()
        self.assertNotEqual(after.node_pem, before.node_pem)
        self.assertEqual(after.membership.by_name("controller-1").node_certificate.encode(), after.node_pem)
        self.assertEqual(after.membership.revoked_serials, (serial_of(before.node_pem),))

    def test_a_certificate_of_another_key_is_issued_anew(self):
        self.init()
        self.paths.node_key.unlink()
        self.paths.api_key.unlink()
        made = self.init()
        self.assertTrue(bears_key(made.node_pem, made.node_key.public_key()))
        api = load_pem_private_key(self.paths.api_key.read_bytes(), None)
        self.assertTrue(bears_key(self.paths.api_pem.read_bytes(), api.public_key()))

    def test_a_damaged_node_certificate_is_issued_anew(self):
        self.init()
        self.paths.node_pem.write_bytes(b"nonsense")
        made = self.init()
        self.assertTrue(made.root.issued(made.node_pem))

    def test_changed_api_names_make_a_new_api_certificate_only(self):
        first = self.init()
        made = self.init(api_names=("controller.example", "192.0.2.9"))
        self.assertEqual(names_of(self.paths.api_pem.read_bytes()), {"controller.example", "192.0.2.9"})
        self.assertEqual(made.membership, first.membership)

    def test_an_operators_own_api_certificate_is_left_alone(self):
        self.init()
        self.state, theirs = folder(self) / "other", self.paths
        other = ControllerIdentity.init(self.state, FACTS)
        mine = theirs.api_pem
        mine.write_bytes(ControllerPaths(self.state).api_pem.read_bytes())
        kept = mine.read_bytes()
        ControllerIdentity.init(theirs.state, attrs.evolve(FACTS, api_names=("new.example",)))
        self.assertEqual(mine.read_bytes(), kept)
        self.assertTrue(other.root.issued(kept))

    def test_a_controller_that_runs_and_one_among_others_sign_nothing_by_themselves(self):
        before = self.init()
        changed = attrs.evolve(FACTS, ssh_port=2222)
        running = ControllerIdentity.init(self.state, changed, sign=False)
        self.assertEqual((running.membership, running.me.ssh_port), (before.membership, 2222))
        (me,) = before.membership.controllers
        other = msgspec.structs.replace(me, name=ControllerName("controller-2"))
        two = msgspec.structs.replace(before.membership, number=2, controllers=(me, other))
        files.write_public(self.paths.membership, sign_membership(before.root.key, two).encode())
        among = self.init(ssh_port=2222)
        self.assertEqual((among.membership, among.me.ssh_port), (two, 2222))

    def test_one_that_has_a_state_engine_signs_nothing_before_that_is_there(self):
        before = self.init(state_client_port=2379, state_peer_port=2380)
        after = self.init(state_client_port=2379, state_peer_port=2380, ssh_port=2222)
        self.assertEqual(after.membership, before.membership)

    def test_one_that_is_in_no_list_any_more_does_not_start(self):
        before = self.init()
        gone = msgspec.structs.replace(before.membership, number=2, controllers=())
        files.write_public(self.paths.membership, sign_membership(before.root.key, gone).encode())
        self.assertRaises(ControllerRemovedError, self.init)

    def test_the_name_stays_as_it_was_made(self):
        self.init()
        self.assertEqual(self.init(name=ControllerName("other")).name, "controller-1")


class Offline(Case):
    def test_a_controller_starts_without_its_root_key(self):
        before = self.init()
        self.paths.root_key.unlink()
        after = self.init()
        self.assertEqual(after.membership, before.membership)
        self.assertFalse(after.root.has_key)
        self.assertFalse(self.paths.root_key.exists())

    def test_what_needs_the_root_key_says_so_and_changes_nothing(self):
        self.init()
        self.paths.root_key.unlink()
        before = self.contents()
        self.assertRaises(RootKeyOfflineError, self.init, addresses=("192.0.2.9",))
        self.assertEqual(self.contents(), before)

    def test_a_machine_that_was_renamed_starts_without_its_root_key(self):
        before = self.init(addresses=("old.example",), addresses_guessed=True)
        key = self.paths.root_key.read_bytes()
        self.paths.root_key.unlink()
        after = self.init(addresses=("new.example",), addresses_guessed=True)
        self.assertEqual(after.membership, before.membership)
        files.write_private(self.paths.root_key, key)
        back = self.init(addresses=("new.example",), addresses_guessed=True)
        self.assertEqual(
            (back.membership.number, back.membership.controllers[0].addresses), (2, ("new.example",))
        )

    def test_the_list_of_an_earlier_release_is_good_while_the_root_is_offline_and_completed_when_it_is_back(
        self,
    ):
        now = self.init()
        (me,) = now.membership.controllers
        old = msgspec.to_builtins(now.membership)
        for field in ("id_controller", "state_client_port", "state_peer_port"):
            del old["controllers"][0][field]
        document = sign_compact(msgspec.json.encode(old), now.root.key, MEMBERSHIP_TYPE)
        files.write_public(self.paths.membership, document.encode())
        key = self.paths.root_key.read_bytes()
        self.paths.root_key.unlink()
        offline = self.init()
        self.assertEqual(offline.membership_document, document)
        self.assertEqual(offline.membership.by_name("controller-1").id_controller, "")
        files.write_private(self.paths.root_key, key)
        back = self.init()
        self.assertEqual((back.membership.number, back.membership.controllers), (2, (me,)))

    def test_an_ending_certificate_does_not_stop_a_controller_whose_root_is_offline(self):
        before = self.init()
        self.paths.root_key.unlink()
        self.patch(node, "RENEW_DAYS", 366.0)
        self.assertEqual(self.init().node_pem, before.node_pem)

    def test_a_controller_starts_with_its_root_key_wrapped(self):
        before = self.init(passphrase=b"open sesame")
        after = self.init()
        self.assertEqual(after.membership, before.membership)
        self.assertRaises(RootKeyLockedError, self.init, addresses=("192.0.2.9",))
        changed = self.init(passphrase=b"open sesame", addresses=("192.0.2.9",))
        self.assertEqual(changed.membership.number, 2)


class Damage(Case):
    def test_a_lost_root_is_not_silently_replaced(self):
        self.init()
        self.paths.root_key.unlink()
        self.paths.root_pem.unlink()
        failure = self.assertRaises(IdentityDamagedError, self.init)
        self.assertEqual(failure.path, self.paths.root_pem)
        self.assertFalse(self.paths.root_key.exists())

    def test_a_lost_cluster_file_does_not_make_another_cluster(self):
        self.init()
        self.paths.cluster.unlink()
        self.assertEqual(self.assertRaises(IdentityDamagedError, self.init).path, self.paths.cluster)
        self.assertFalse(self.paths.cluster.exists())

    def test_each_damaged_file_is_a_clear_error_and_stays_as_it_is(self):
        self.init()
        whole = self.contents()
        for name in (
            "cluster",
            "root_key",
            "root_pem",
            "node_key",
            "host_key",
            "id_se",
            "api_key",
            "admin",
            "membership",
        ):
            for damage in (b"", b"nonsense", b"\xff\x00" * 50):
                path = getattr(self.paths, name)
                path.write_bytes(damage)
                with self.subTest(name=name, damage=damage):
                    failure = self.assertRaises(AvinetError, self.init)
                    self.assertNotIn("{", str(failure))
                    self.assertEqual(path.read_bytes(), damage)
                path.write_bytes(whole[str(path)])

    def test_an_exposed_key_is_refused(self):
        self.init()
        for name in ("root_key", "node_key", "host_key", "id_se", "id_controller", "api_key"):
            path = getattr(self.paths, name)
            path.chmod(0o640)
            failure = self.assertRaises(FileExposedError, self.init)
            self.assertIn(str(path), str(failure))
            path.chmod(0o600)

    def test_an_admin_record_hides_what_it_keeps(self):
        self.assertNotIn("abc", repr(Admin(user="admin", salt="abc1", hash="abc2")))
