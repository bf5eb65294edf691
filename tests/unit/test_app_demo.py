"""What ``avinet demo`` tells to do in another terminal."""

import os
import shlex
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.demo.screen import exported


class TheOtherTerminal(SynchronousTestCase):
    BIN = str(Path(sys.executable).parent)

    def test_finds_the_program_of_the_demo_when_its_shell_does_not(self):
        self.patch(os, "environ", {**os.environ, "PATH": "/usr/bin:/bin"})
        state = Path("/tmp/a folder/controller-1")
        line = exported(state)
        words = shlex.split(line)
        self.assertEqual(words[1:], [f"PATH={self.BIN}:$PATH", f"AVINET_STATE={state}"])

    def test_is_not_told_of_a_path_that_it_has(self):
        self.patch(os, "environ", {**os.environ, "PATH": f"{self.BIN}:/bin"})
        self.assertEqual(exported(Path("/d/c")), "export AVINET_STATE=/d/c")
