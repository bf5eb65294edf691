"""What the membership list says of this very controller, kept true: an address, a port, a key, a certificate's end.

Who has the root key signs it; another member asks that one, over port 8443, with a request that its node key signs.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from avinet.app.cli.registration import ClusterTrust, ask_for_signature, ask_to_join
from avinet.app.software import software_version
from avinet.controller.root_holder import RootHolder, RootNowhereError
from avinet.model.membership import Controller, Membership
from avinet.trust import keys
from avinet.trust.ca import bears_key, days_left, same_names
from avinet.trust.files import write_public
from avinet.trust.image import sign_manifest
from avinet.trust.joining import ControllerClaims, parse_api_key, sign_claims, sign_manifest_wish
from avinet.trust.node import RENEW_DAYS, ControllerIdentity, NodeFacts
from avinet.trust.own_keys import api_public_key
from avinet.wire.joining import JoinAnswer
from avinet.wire.registration import registration_addresses

Ask = Callable[[ClusterTrust, tuple[str, ...], bytes], JoinAnswer]
"""Blocking; a test has its own."""


@attrs.define(eq=False)
class OwnEntry:
    """``agree`` at a start, and each day."""

    holder: RootHolder
    facts: NodeFacts
    in_thread: Callable[..., "Deferred[Any]"] = deferToThread
    ask: Ask = ask_to_join
    wall: Callable[[], float] = time.time
    ask_signature: Callable[[ClusterTrust, tuple[str, ...], bytes], str] = ask_for_signature

    async def agree(self, identity: ControllerIdentity) -> None:
        """Have the list say what ``identity`` does; what was issued anew is on disk then."""
        members = self.holder.members
        if identity.root.has_key:
            self.holder.root = identity.root  # brought back while we ran
        if self.holder.root.has_key or len(members.current.controllers) == 1:
            await self.holder.open()
            await self.holder.tell(identity.me)
            return
        api_key = await self.in_thread(self._own_api_key, identity)
        if not self._is_true(identity, api_key):
            answer = await self._ask(identity, api_key)
            if answer.api_certificate:
                await self.in_thread(write_public, identity.paths.api_pem, answer.api_certificate.encode())
            await members.take(answer.membership)

    def _is_true(self, identity: ControllerIdentity, api_key: str) -> bool:
        """Whether there is nothing to ask for."""
        known = self.holder.members.current.by_name(identity.name)
        if known != identity.me or self._ends_soon(identity.node_pem):
            return False
        if not api_key:
            return True
        pem = identity.paths.api_pem.read_bytes()
        mine = bears_key(pem, parse_api_key(api_key)) and same_names(pem, self.facts.api_names)
        return mine and not self._ends_soon(pem)

    def _ends_soon(self, pem: bytes) -> bool:
        return days_left(pem, self.wall()) < RENEW_DAYS

    @staticmethod
    def _own_api_key(identity: ControllerIdentity) -> str:
        """The operator API's, where its certificate is ours to renew; else empty."""
        path = identity.paths.api_pem
        if path.exists() and not identity.root.issued(path.read_bytes()):
            return ""
        return api_public_key(identity.paths)

    async def _ask(self, identity: ControllerIdentity, api_key: str) -> JoinAnswer:
        trust, addresses = await self._signer(identity)
        claims = ControllerClaims.of(
            identity.me,
            cluster=identity.cluster,
            node_key=keys.public_line(identity.node_key.public_key()),
            api_key=api_key,
            api_names=self.facts.api_names,
            software=software_version(),
            nonce=secrets.token_urlsafe(16),
            issued_at=int(self.wall()),
        )
        body = sign_claims(claims, identity.node_key)
        answer: JoinAnswer = await self.in_thread(self.ask, trust, addresses, body)
        return answer

    async def signed(self, identity: ControllerIdentity, manifest: bytes) -> str:
        """The root's signature of an image's manifest, which this controller has built."""
        if self.holder.root.has_key or len(self.holder.members.current.controllers) == 1:
            return sign_manifest(self.holder.root, manifest)
        trust, addresses = await self._signer(identity)
        body = sign_manifest_wish(manifest, identity.node_key)
        answer: str = await self.in_thread(self.ask_signature, trust, addresses, body)
        return answer

    async def _signer(self, identity: ControllerIdentity) -> tuple[ClusterTrust, tuple[str, ...]]:
        """Who has the root key: how to know it, and where it is."""
        current, name = self.holder.members.current, await self.holder.name()
        signer = None if name is None or name == identity.name else current.by_name(name)
        if signer is None:
            raise RootNowhereError
        return ClusterTrust(identity.root_pem.decode(), current), addresses_of(current, signer)


def addresses_of(membership: Membership, controller: Controller) -> tuple[str, ...]:
    """One controller's registration API."""
    return registration_addresses(msgspec.structs.replace(membership, controllers=(controller,)))
