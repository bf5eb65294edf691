"""A command's environment is small, and does not depend on a user database."""

import os
import pwd

from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.environment import environment_of


class Environment(SynchronousTestCase):
    def test_nothing_of_the_agents_own_environment_is_in_it(self):
        self.patch(os, "environ", {"SECRET": "x"})
        self.assertEqual(
            set(environment_of("/bin/sh", "xterm")),
            {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM"},
        )

    def test_a_user_whom_the_machine_does_not_know_has_one_too(self):
        def unknown(uid):
            raise KeyError(uid)

        self.patch(pwd, "getpwuid", unknown)
        found = environment_of("/bin/sh")
        self.assertEqual((found["USER"], found["HOME"]), (str(os.getuid()), "/"))
