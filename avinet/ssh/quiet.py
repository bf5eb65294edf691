"""Conch's own log, silenced.

Conch logs every version string, channel and failed login at info level or above, as text that strangers on the
network choose.  What an operator needs of that is reported by this package itself, through callbacks to whoever
coalesces and names it; so each Conch class that is subclassed here takes ``conch_log()`` for its logger.
"""

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer


@implementer(ILogObserver)
class _Silence:
    def __call__(self, event: LogEvent) -> None:
        """Drop it."""


def conch_log() -> Logger:
    """A logger that goes nowhere."""
    return Logger(namespace="avinet.ssh.conch", observer=_Silence())
