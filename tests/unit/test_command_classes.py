"""What controllers may use an SE for: told by its group, kept and enforced by the SE."""

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.command_classes import ClassTeller
from avinet.se.command_classes import CommandClassFile
from avinet.ssh.commands import CommandServer
from avinet.ssh.confined import ConfinedFolder
from avinet.ssh.policy import CommandPolicy
from avinet.wire.messages import COMMAND_CLASSES, CommandClasses, Hello

EVERYTHING = ("EXEC", "INTERACTIVE", "FILES")


class Session:
    def __init__(self, *capabilities):
        self.se = "se-1"
        self.hello = Hello(
            se=self.se, boot="b", protocol=1, oldest_protocol=1, software="x", capabilities=capabilities
        )
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Teller(SynchronousTestCase):
    def setUp(self):
        self.classes = EVERYTHING
        self.teller = ClassTeller(lambda se: self.classes)

    def test_it_tells_at_the_start_and_what_changes(self):
        session = Session(COMMAND_CLASSES)
        self.teller.attached(session)
        self.teller.groups_changed()
        self.classes = ("FILES",)
        self.teller.groups_changed()
        self.classes = None  # deleted
        self.teller.groups_changed()
        self.assertEqual(
            session.sent, [CommandClasses(allowed=EVERYTHING), CommandClasses(allowed=("FILES",))]
        )

    def test_a_new_session_is_told_anew_and_an_old_one_no_more(self):
        first, second = Session(COMMAND_CLASSES), Session(COMMAND_CLASSES)
        self.teller.attached(first)
        self.teller.attached(second)
        self.teller.detached(first, "replaced")
        self.classes = ()
        self.teller.groups_changed()
        self.assertEqual([len(first.sent), len(second.sent)], [1, 2])
        self.teller.detached(second, "gone")
        self.classes = EVERYTHING
        self.teller.groups_changed()
        self.assertEqual(len(second.sent), 2)

    def test_an_older_engine_is_not_told(self):
        session = Session()
        self.teller.attached(session)
        self.assertEqual(session.sent, [])


class Kept(SynchronousTestCase):
    def test_what_was_told_last_holds_after_a_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            file = CommandClassFile(Path(folder) / "command-classes.json")
            self.assertEqual(file.load(), frozenset(EVERYTHING))
            file.save(frozenset({"FILES"}))
            self.assertEqual(file.load(), frozenset({"FILES"}))
            self.assertEqual(file.path.stat().st_mode & 0o777, 0o600)
            file.path.write_bytes(b"[")
            self.assertEqual(file.load(), frozenset())
            self.flushLoggedErrors()


class Narrowed(SynchronousTestCase):
    def test_a_group_takes_away_and_never_gives(self):
        files = ConfinedFolder(Path("/nonexistent"))
        own = CommandPolicy(interactive_allowed=False, files=files)
        server = CommandServer(Ed25519PrivateKey.generate(), list, Clock(), lambda use: None, own)
        server.narrow(EVERYTHING)
        self.assertEqual(server.policy, own)
        server.narrow({"FILES", "NEWER"})
        self.assertEqual((server.policy.exec_allowed, server.policy.files), (False, files))
        server.narrow(())
        self.assertIsNone(server.policy.files)
        server.narrow({"EXEC"})
        self.assertTrue(server.policy.exec_allowed)
        self.assertFalse(server.policy.interactive_allowed)
