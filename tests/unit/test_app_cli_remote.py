"""What ``avinet se exec`` and ``se ssh`` hand to the remote shell."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.errors import UsageError
from avinet.app.cli.remote import line_of


class TheRemoteLine(SynchronousTestCase):
    def test_is_one_argument_as_it_is(self):
        self.assertEqual(line_of(("ls | wc -l; exit 4",)), "ls | wc -l; exit 4")

    def test_is_several_arguments_quoted(self):
        self.assertEqual(line_of(("echo", "a b", "$HOME")), "echo 'a b' '$HOME'")

    def test_begins_after_two_dashes(self):
        self.assertEqual(line_of(("--", "uptime")), "uptime")
        self.assertEqual(line_of(("--", "ss -ltn | head")), "ss -ltn | head")
        self.assertEqual(line_of(("git", "log", "--", "x")), "git log -- x")

    def test_is_missing_when_nothing_follows_the_dashes(self):
        self.assertRaises(UsageError, line_of, ("--",))
