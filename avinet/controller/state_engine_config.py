"""What etcd is told: its configuration, rendered from what a controller knows.  Plain functions.

Each choice, and why:

- It listens on 127.0.0.1 alone, and both ports demand a certificate of the state engine's own CA: a forward is not
  access control, and other users of the machine can reach localhost.
- Compaction by revision, not by time: 10,000 changes stay for watches, as in the embedded store, however fast they
  came.  By time, a burst of large changes would fill the quota.
- A snapshot each 10,000 changes rather than 100,000 (etcd 3.6 has this default too): etcd holds what came since in
  memory, and replays it at a start.
- Pre-vote: a member that was cut off does not make the others elect again when it comes back.
- The quota is where etcd refuses writes rather than let its file grow; 2 GiB, its own default, holds the
  configuration of a large fleet (64 MiB of history, some KiB an SE) many times.
"""

import math
from pathlib import Path
from typing import Any

import attrs

from avinet.controller.state_engine_files import EngineFiles, Progress
from avinet.model.ids import ClusterId, ControllerName
from avinet.units import GIB

HOST = "127.0.0.1"
HEARTBEAT_MS = 100
"""etcd's default, right for members that are near."""
ELECTION_HEARTBEATS = 10
"""etcd's advice: the election timeout is ten times the round trip, and the heartbeat about one."""
MAX_ELECTION_MS = 50_000
"""etcd's own limit."""
QUOTA_BYTES = 2 * GIB
KEPT_REVISIONS = 10_000
SNAPSHOT_CHANGES = 10_000
WATCH_WORD_NS = 1_000_000_000
"""etcd's watches say that they live each second; ``avinet.store.etcd_watch`` asks again after 5 s without a word."""


@attrs.frozen
class Timing:
    """How long a silent leader is waited for.  Every member must have the same."""

    heartbeat_ms: int = HEARTBEAT_MS

    @property
    def election_ms(self) -> int:
        """After so long without a word, and up to twice that, a member stands for election."""
        return self.heartbeat_ms * ELECTION_HEARTBEATS


def timing_for(rtt_s: float) -> Timing:
    """For the longest round trip between two members, in steps that double, so that noise does not change it.

    The heartbeat is at least the round trip.  100 ms, and so elections after 1 to 2 s, for everything up to that.
    """
    wanted_ms = max(float(HEARTBEAT_MS), min(rtt_s * 1000, MAX_ELECTION_MS / ELECTION_HEARTBEATS))
    steps = math.ceil(math.log2(wanted_ms / HEARTBEAT_MS))
    return Timing(min(HEARTBEAT_MS * 2**steps, MAX_ELECTION_MS // ELECTION_HEARTBEATS))


def timing_after(now: Timing, rtt_s: float) -> Timing:
    """What follows ``now``: up as soon as it must, down only where the round trip is below half of the step."""
    for wanted, changes in (
        (timing_for(rtt_s), int.__gt__),
        (timing_for(rtt_s * 2), int.__lt__),
    ):
        if changes(wanted.heartbeat_ms, now.heartbeat_ms):
            return wanted
    return now


@attrs.frozen(kw_only=True)
class EnginePlan:
    """What an operator and the cluster decide about this controller's etcd."""

    cluster: ClusterId
    name: ControllerName
    client_port: int
    peer_port: int
    binary: Path | None = None
    """None: the one in PATH."""
    quota_bytes: int = QUOTA_BYTES
    timing: Timing = Timing()

    @property
    def client_url(self) -> str:
        """Where this controller speaks to it."""
        return url_of(self.client_port)

    @property
    def peer_url(self) -> str:
        """Where other members do, through forwards."""
        return url_of(self.peer_port)


def url_of(port: int) -> str:
    """Of a port on this machine's loopback, where forwards to other members begin, too."""
    return f"https://{HOST}:{port}"


def rendered(plan: EnginePlan, files: EngineFiles, progress: Progress) -> dict[str, Any]:
    """etcd's configuration file; JSON is YAML."""
    transport = {
        "cert-file": str(files.certificate),
        "key-file": str(files.key_file),
        "trusted-ca-file": str(files.ca_pem),
        "client-cert-auth": True,
    }
    return {
        "name": plan.name,
        "data-dir": str(files.data),
        "listen-client-urls": plan.client_url,
        "advertise-client-urls": plan.client_url,
        "listen-peer-urls": plan.peer_url,
        "initial-advertise-peer-urls": plan.peer_url,
        "initial-cluster": progress.initial_cluster,
        "initial-cluster-state": "existing" if progress.joining else "new",
        "initial-cluster-token": plan.cluster,
        "client-transport-security": transport,
        "peer-transport-security": transport,
        "enable-grpc-gateway": True,  # off by default with a configuration file
        "pre-vote": True,
        "strict-reconfig-check": True,  # likewise: refuse a change of members that would lose the quorum
        "heartbeat-interval": plan.timing.heartbeat_ms,
        "election-timeout": plan.timing.election_ms,
        "quota-backend-bytes": plan.quota_bytes,
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": str(KEPT_REVISIONS),
        "snapshot-count": SNAPSHOT_CHANGES,
        "bcrypt-cost": 4,  # the least there is: passwords are 192 random bits, and a login would take 60 ms else
        "experimental-watch-progress-notify-interval": WATCH_WORD_NS,
        "logger": "zap",
        "log-level": "info",
        "log-outputs": ["stderr"],
    }
