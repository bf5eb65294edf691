"""Leases on etcd.  Their numbers are chosen here, so that a grant whose answer was lost can be asked for again."""

import math
import secrets

from avinet.store.etcd_gateway import EXISTS, NOT_FOUND, Gateway, RefusedError
from avinet.store.etcd_messages import KeepAliveAnswer, LeaseAnswer
from avinet.store.interface import LeaseId

LAST_REST_S = 0.5
"""Of a lease that lives and of which etcd says that no whole second is left."""


class Leases:
    """The leases of a gateway; each method has until ``deadline`` by the gateway's clock."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def grant(self, ttl_s: float, deadline: float) -> LeaseId:
        """A new one; etcd counts whole seconds, and none shorter than one and a half of its elections."""
        lease = LeaseId(secrets.randbits(62) + 1)
        request = {"ID": lease, "TTL": math.ceil(ttl_s)}
        try:
            await self._gateway.ask("lease/grant", request, LeaseAnswer, deadline=deadline)
        except RefusedError as refused:
            if not (refused.code == EXISTS and refused.lost):
                raise refused.told() from refused
        return lease

    async def keep_alive(self, lease: LeaseId, deadline: float) -> bool:
        """Renew; False when it has ended."""
        reply = await self._gateway.ask("lease/keepalive", {"ID": lease}, KeepAliveAnswer, deadline=deadline)
        return reply.answer.result is not None and reply.answer.result.TTL > 0

    async def lives(self, lease: LeaseId, deadline: float) -> bool:
        """Whether it has not ended."""
        return await self._seconds(lease, deadline) > 0

    async def rest(self, lease: LeaseId, deadline: float) -> float:
        """The seconds that are left of it, rounded down to a half at least; 0 when it has ended."""
        seconds = await self._seconds(lease, deadline)
        return 0.0 if seconds < 0 else max(LAST_REST_S, float(seconds))

    async def _seconds(self, lease: LeaseId, deadline: float) -> int:
        """As etcd counts them: whole ones, and -1 when it has ended."""
        reply = await self._gateway.ask("lease/timetolive", {"ID": lease}, LeaseAnswer, deadline=deadline)
        return reply.answer.TTL

    async def revoke(self, lease: LeaseId, deadline: float) -> None:
        """End it."""
        try:
            await self._gateway.ask("lease/revoke", {"ID": lease}, LeaseAnswer, deadline=deadline)
        except RefusedError as refused:
            if refused.code != NOT_FOUND:
                raise refused.told() from refused
