"""The operator's routes about the controllers themselves: who there are, who joins, who leaves."""

from collections.abc import Callable
from typing import Annotated

import attrs
import msgspec

from avinet.controller.engines import Emit
from avinet.controller.growth import StateEngineGrowth
from avinet.controller.join_tokens import JoinTokens
from avinet.controller.newcomers import MAX_CONTROLLERS, TooManyControllersError, size_warning
from avinet.controller.peer_rows import LinkRow, PortRow
from avinet.controller.removal import ControllerNotFoundError, Removal
from avinet.controller.root_holder import (
    HandOn,
    RootElsewhereError,
    RootHolder,
    RootHolderLeavesError,
)
from avinet.model.events import Level
from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Membership
from avinet.rest.access import Role
from avinet.rest.route import Request, Response, Route
from avinet.trust.bundle import Bundle
from avinet.wire.registration import registration_addresses

BASE = "/api/cluster"
CHANGE_TIMEOUT_S = 60.0
"""The state engine answers within seconds, or says that it has no quorum."""


class MemberRow(msgspec.Struct, frozen=True, kw_only=True):
    """One controller; ``role`` is ``leader``, ``follower`` or ``unreachable``."""

    name: ControllerName
    role: str
    software: str
    """Empty where it is not known."""
    rtt_ms: float | None
    """From here, smoothed."""
    why: str
    """Why it is unreachable."""
    addresses: tuple[str, ...]
    ssh_port: int
    registration_port: int
    root_key: bool
    """Whether it signs the membership list."""
    links: tuple[LinkRow, ...] = ()
    """From the controller that answers; none to itself."""
    ports: tuple[PortRow, ...] = ()
    """Of its state engine, as they are reached from the controller that answers."""


class ClusterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/cluster``."""

    cluster: ClusterId
    name: ControllerName
    """Who answers."""
    membership: int
    """The list's number."""
    quorum: bool
    """Whether changes can be made."""
    root_holder: str | None
    members: tuple[MemberRow, ...]
    warnings: tuple[str, ...] = ()


class BundleWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``replaces``: the name of the controller whose place the new one takes."""

    replaces: Annotated[str, msgspec.Meta(max_length=63)] = ""


class RemovedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``DELETE /api/cluster/controller/{name}``."""

    name: ControllerName
    membership: int
    warnings: tuple[str, ...] = ()


@attrs.frozen
class Standing:
    """What this controller knows of one of the members."""

    role: str
    software: str = ""
    rtt_ms: float | None = None
    why: str = ""
    links: tuple[LinkRow, ...] = ()
    ports: tuple[PortRow, ...] = ()


@attrs.frozen
class Sight:
    """How the members stand, as seen from here."""

    of: Callable[[ControllerName], Standing]
    quorum: Callable[[], bool] = lambda: True


@attrs.frozen(eq=False)
class ClusterApi:
    """The handlers."""

    holder: RootHolder
    removal: Removal
    tokens: JoinTokens
    growth: StateEngineGrowth
    sight: Sight
    emit: Emit
    hand_on: HandOn | None = None

    async def show(self, request: Request) -> Response:
        """``GET /api/cluster``."""
        members = self.holder.members
        current, holder = members.current, await self.holder.name_by_now()
        rows = []
        for controller in current.controllers:
            standing = self.sight.of(controller.name)
            rows.append(
                MemberRow(
                    name=controller.name,
                    role=standing.role,
                    software=standing.software,
                    rtt_ms=standing.rtt_ms,
                    why=standing.why,
                    links=standing.links,
                    ports=standing.ports,
                    addresses=controller.addresses,
                    ssh_port=controller.ssh_port,
                    registration_port=controller.registration_port,
                    root_key=controller.name == holder,
                )
            )
        warning = size_warning(current)
        return Response(
            body=ClusterAnswer(
                cluster=current.cluster,
                name=members.name,
                membership=current.number,
                quorum=self.sight.quorum(),
                root_holder=holder,
                members=tuple(rows),
                warnings=(warning,) if warning else (),
            )
        )

    async def bundle(self, request: Request) -> Response:
        """``POST /api/cluster/bundle``."""
        elsewhere = await self._elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        replaces: str = request.body.replaces
        members = self.holder.members
        await self.growth.require()
        if replaces == members.name:
            raise RootHolderLeavesError(name=replaces)
        if replaces and members.current.by_name(replaces) is None:
            raise ControllerNotFoundError(name=replaces)
        if not replaces and len(members.current.controllers) >= MAX_CONTROLLERS:
            raise TooManyControllersError(limit=MAX_CONTROLLERS)
        token, text = await self.tokens.issue(replaces)
        self.emit(
            "JOIN_BUNDLE_CREATED",
            Level.WARNING,
            token.id,
            f"A bundle was made with which a machine can become a controller{f' in the place of {replaces}' if replaces else ''}, within 10 minutes.",
            replaces=replaces,
        )
        bundle = Bundle(
            cluster=members.current.cluster,
            root=self.holder.root.pem.decode(),
            membership=members.document,
            controllers=_addresses(members.current, members.name, replaces),
            token=text,
            expires_at=token.expires_at,
            replaces=replaces,
        )
        return Response(status=201, body=bundle)

    async def remove(self, request: Request) -> Response:
        """``DELETE /api/cluster/controller/{name}``."""
        elsewhere = await self._elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        removed = await self.removal.remove(request.params["name"])
        return Response(
            body=RemovedAnswer(name=removed.name, membership=removed.membership, warnings=removed.warnings)
        )

    async def _elsewhere(self, request: Request) -> Response | None:
        """What whoever has the root key answers; None where that is this one."""
        try:
            await self.holder.require()
        except RootElsewhereError as elsewhere:
            if self.hand_on is None or request.handed_on:
                raise
            return await self.hand_on(ControllerName(elsewhere.holder), request)
        return None

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/cluster``."""
        return (
            Route(
                method="GET",
                path=BASE,
                handler=self.show,
                summary="The controllers of this cluster, and how they stand.",
                response=ClusterAnswer,
            ),
            Route(
                method="POST",
                path=f"{BASE}/bundle",
                handler=self.bundle,
                summary="A bundle with which a machine becomes a controller within 10 minutes; it is a secret.",
                request=BundleWish,
                response=Bundle,
                statuses={
                    201: "Made; the token in it is shown only now.",
                    404: "No such controller to replace.",
                    409: "The state engine is one that cannot be shared, or the cluster is full.",
                    429: "Too many bundles within a day.",
                    503: "No controller has the root key, or the store cannot be reached.",
                },
                role=Role.ADMIN,
                leader=False,  # who has the root key does it
                timeout_s=CHANGE_TIMEOUT_S,
            ),
            Route(
                method="DELETE",
                path=f"{BASE}/controller/{{name}}",
                handler=self.remove,
                summary="Remove a controller from the cluster: nobody believes it any more.",
                response=RemovedAnswer,
                statuses={
                    200: "Removed.",
                    404: "No such controller.",
                    409: "It has the root key.",
                    503: "The root key is elsewhere, or the store cannot be reached.",
                },
                role=Role.ADMIN,
                leader=False,
                timeout_s=CHANGE_TIMEOUT_S,
            ),
        )


def _addresses(membership: Membership, first: str, without: str) -> tuple[str, ...]:
    """Registration APIs, those of ``first`` first: it answers at once, the others hand on."""
    ordered = sorted(
        (known for known in membership.controllers if known.name != without),
        key=lambda known: known.name != first,
    )
    return registration_addresses(msgspec.structs.replace(membership, controllers=tuple(ordered)))
