"""Which protocol version two sides speak: the highest that both do.

Each side names the newest version it speaks and the oldest it still understands (N and N-1), the SE in ``Hello``.
"""

from avinet.wire.messages import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION


def common_version(
    newest: int, oldest: int, *, ours: int = PROTOCOL_VERSION, our_oldest: int = OLDEST_PROTOCOL_VERSION
) -> int | None:
    """The version to speak with a peer of ``oldest`` to ``newest``, or None when the ranges do not meet."""
    version = min(newest, ours)
    return version if version >= max(oldest, our_oldest) else None
