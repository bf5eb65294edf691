"""``python -m avinet.cloud.launch PARENT[:SIGNAL] COMMAND...``: become COMMAND, and end when PARENT does.

Twisted offers no hook between fork and exec, so this runs there: it asks the kernel for SIGTERM, or the signal of that
number, at the parent's death (prctl(2), kept over exec), sees to it that the parent did not die before that, and execs.
A controller killed outright thereby leaves no SE agents behind; their data planes have sessions of their own and go on.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""
PARENT_GONE = 3


def main(arguments: list[str]) -> None:
    """Never returns."""
    parent, _, number = arguments[0].partition(":")
    command = arguments[1:]
    if sys.platform == "linux":
        at_its_death = int(number or signal.SIGTERM)
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, at_its_death, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(PARENT_GONE)
    os.execvp(command[0], command)  # noqa: S606 - the command is the controller's own


if __name__ == "__main__":
    main(sys.argv[1:])
