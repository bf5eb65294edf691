"""A controller among others: its membership list, who signs that, its own entry in it, and its end once removed."""

import contextlib
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.app.list_lookout import ListLookout
from avinet.app.own_entry import OwnEntry
from avinet.app.software import software_version
from avinet.controller.api_cluster import ClusterApi, Sight, Standing
from avinet.controller.engines import Emit
from avinet.controller.failure_budget import FailureBudget
from avinet.controller.forwarding import Forwarding
from avinet.controller.growth import NoGrowth, StateEngineGrowth
from avinet.controller.join_tokens import JoinTokens
from avinet.controller.joining import Joining
from avinet.controller.joining_api import JoiningApi
from avinet.controller.manifest_signing import ManifestSigning
from avinet.controller.members import LocalCopy, Members
from avinet.controller.peer_rows import links_of, ports_of
from avinet.controller.peers import Peers
from avinet.controller.removal import Removal
from avinet.controller.root_holder import HandOn, RootHolder
from avinet.errors import AvinetError
from avinet.model.ids import ControllerName
from avinet.model.membership import Membership
from avinet.store.interface import Store
from avinet.trust.local_list import SignedList
from avinet.trust.membership import ControllerRemovedError
from avinet.trust.node import ControllerIdentity, NodeFacts

ROLE = "role"
"""What each controller publishes of itself to the others: ``leader`` or ``follower``."""


@attrs.define(eq=False)
class Cluster:
    """``watch`` at once, ``open`` with the store.  ``removed`` is called when this controller is a member no more."""

    identity: ControllerIdentity
    facts: NodeFacts
    clock: IReactorTime
    emit: Emit
    removed: Callable[[AvinetError], None]
    growth: StateEngineGrowth = attrs.field(factory=NoGrowth)
    members: Members = attrs.field(init=False)
    holder: RootHolder = attrs.field(init=False)
    entry: OwnEntry = attrs.field(init=False)
    lookout: ListLookout = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        identity = self.identity
        self.members = Members(
            identity.name,
            SignedList(identity.membership, identity.membership_document),
            LocalCopy(identity.paths.membership, identity.root.certificate),
            self.emit,
        )
        self.members.listen(self._changed)
        self.holder = RootHolder(self.members, identity.root, self.clock)
        self.entry = OwnEntry(self.holder, self.facts)
        self.lookout = ListLookout(self.members, identity.root_pem.decode(), self.clock)

    def watch(self, stack: contextlib.AsyncExitStack) -> None:
        """Hear from the others, whatever becomes of the store."""
        stack.callback(self.lookout.stop)
        self.lookout.start()

    async def open(self, store: Store, growth: StateEngineGrowth) -> None:
        """The list as the store has it, and this controller's entry as it should be, where that can be signed here."""
        self.growth = growth
        await self.members.open(store)
        if not self.members.is_member:
            raise self._removal()
        await self.holder.open()
        if self.holder.root.has_key or len(self.members.current.controllers) == 1:
            await self.holder.tell(self.identity.me)

    def joining(self, hand_on: HandOn) -> JoiningApi:
        """What other controllers ask on 8443."""
        joining = Joining(
            self.identity.cluster,
            self.holder,
            self._tokens(),
            self.growth,
            FailureBudget(self.clock),
            self.clock,
            self.emit,
        )
        signing = ManifestSigning(self.holder, FailureBudget(self.clock), self.emit)
        return JoiningApi(joining, signing, hand_on)

    async def sign(self, manifest: bytes) -> str:
        """The root's signature of an image's manifest."""
        return await self.entry.signed(self.identity, manifest)

    def api(self, peers: Peers, forwarding: Forwarding) -> ClusterApi:
        """What operators ask; ``peers`` say how the others stand."""

        def standing(name: ControllerName) -> Standing:
            if name == peers.me:
                role = "follower" if len(peers.members) > 1 else "leader"
                return Standing(str(peers.said(name).get(ROLE, role)), software_version())
            view = next((view for view in peers.status() if view.name == name), None)
            if view is None:
                return Standing("unreachable")
            links, ports = links_of(view), ports_of(view)
            if not view.live:
                return Standing("unreachable", why=view.state.why, links=links, ports=ports)
            role = str(peers.said(name).get(ROLE, "follower"))
            return Standing(role, view.software, links[0].rtt_ms, links=links, ports=ports)

        removal = Removal(self.holder, self.growth, self.emit)
        sight = Sight(standing, lambda: forwarding.seat.role.leader is not None)
        tokens = self._tokens()
        return ClusterApi(self.holder, removal, tokens, self.growth, sight, self.emit, forwarding.ask)

    def _tokens(self) -> JoinTokens:
        return JoinTokens(self.members.store, self.clock)

    def _changed(self, before: Membership, after: Membership) -> None:
        if not self.members.is_member:
            self.removed(self._removal())

    def _removal(self) -> ControllerRemovedError:
        return ControllerRemovedError(name=self.members.name, number=self.members.current.number)
