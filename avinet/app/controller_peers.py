"""The other controllers of the cluster, put together: who may log in, the links, their ports, and what is told of them.

A controller that is alone in the membership list has all of this and opens nothing.
"""

import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from avinet.app.channel_surface import ChannelSurface
from avinet.app.channel_terms import terms_of
from avinet.app.peer_api import PeerApi
from avinet.app.settings import PeersSection, SshSection
from avinet.controller.engines import Emit
from avinet.controller.log_parts import LogParts
from avinet.controller.log_questions import LogAnswers
from avinet.controller.peer_dial import PEER_TIMEOUTS, PeerReach
from avinet.controller.peer_events import PeerEvents
from avinet.controller.peer_links import PeerLinks
from avinet.controller.peer_other import Lists, PeerAbout
from avinet.controller.peer_permits import USER, PeerPermits, state_ports
from avinet.controller.peer_ports import PeerPorts
from avinet.controller.peer_session import PeerSettings
from avinet.controller.peers import PEER_API, PEER_LOG_PARTS, PEER_LOGS
from avinet.model.membership import Membership
from avinet.ssh.addresses import endpoint_of, resolver
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.controller_login import ControllerAccount, controller_limits, owner_of
from avinet.ssh.login import Account
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.profile import LinkLimits
from avinet.trust.node import ControllerPaths


@attrs.define(eq=False)
class ControllerPeers:
    """One controller's.  ``links`` are the ``Peers``."""

    links: PeerLinks
    permits: PeerPermits
    ports: PeerPorts
    events: PeerEvents
    api: PeerApi
    """What the others ask of this one; it serves once there are routes."""
    logs: LogAnswers
    parts: LogParts
    _memory: list[ProcessMemory] = attrs.field(repr=False)
    """The process's, once the SSH server has it."""
    expect: Callable[[str], None] = attrs.field(default=lambda address: None, init=False)
    """Who comes from there is no stranger to the SSH server's bounds."""

    @classmethod
    def make(  # noqa: PLR0913 - what a controller is made of, each once
        cls,
        *,
        about: PeerAbout,
        key: Ed25519PrivateKey,
        lists: Lists,
        paths: ControllerPaths,
        section: PeersSection,
        ssh: SshSection,
        emit: Emit,
        reactor: Any,
    ) -> "ControllerPeers":
        """Of parts that know each other; ``key`` is ``id_controller``."""
        memory: list[ProcessMemory] = []

        def dial(address: str, port: int, verify: Any) -> Deferred[SecureChannel]:
            terms = terms_of(ssh, controller_limits(LinkLimits()))
            return connect(
                endpoint_of(reactor, address, port),
                user=USER,
                key=key,
                verify_host_key=verify,
                clock=reactor,
                timeouts=PEER_TIMEOUTS,
                terms=attrs.evolve(terms, memory=memory[0]),
            )

        links = PeerLinks(
            about,
            PeerSettings(
                section.heartbeat_interval_s,
                section.heartbeat_misses,
                section.backoff_base_s,
                section.backoff_cap_s,
            ),
            PeerReach(resolver(reactor), dial, random.random),
            lists,
            reactor,
        )
        return cls(
            links,
            PeerPermits(paths.avictlruser_keys, about.me),
            PeerPorts(reactor, links),
            PeerEvents(links, emit, reactor),
            PeerApi(reactor),
            LogAnswers(),
            LogParts(reactor),
            memory,
        )

    def accounts(self, memory: ProcessMemory) -> Mapping[str, Account]:
        """For the SSH server."""
        self._memory.append(memory)
        return {USER: ControllerAccount(self.permits.keys, self.links.services, self.events, memory)}

    def start(
        self, membership: Membership, channels: ChannelSurface, stack: contextlib.AsyncExitStack
    ) -> None:
        """Dial, and let in."""
        self.links.offer(PEER_API, self.api.build)
        self.links.offer(PEER_LOGS, self.logs.build)
        self.links.offer(PEER_LOG_PARTS, self.parts.build)
        self.links.drop = lambda name: channels.drop(owner_of(name))
        self.links.denied = self.events.denied
        self.expect = channels.expect
        mine = membership.by_name(self.links.me)
        if mine is not None:
            self.ports.offer(*state_ports(mine))
        self.ports.start()
        stack.callback(self.ports.stop)
        stack.callback(self.events.stop)
        stack.callback(self.links.stop)
        self.update(membership)
        self.events.start()

    def update(self, membership: Membership) -> None:
        """A newer list."""
        for controller in membership.controllers:
            for address in controller.addresses:
                self.expect(address)
        self.permits.update(membership)
        self.links.update(membership)
        self.ports.update(membership)
        self.events.members_changed()
