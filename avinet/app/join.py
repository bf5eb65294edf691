"""``avinet cluster join``: an empty folder and a bundle become the state folder of one more controller.

The request is on disk before it is sent, with the answer's place beside it: whatever is cut, the same command goes on,
with the same keys and, where nothing else was asked for, with the same bytes.  ``cluster.json`` is written last, and
until then no controller starts there.
"""

import secrets
import time
from collections.abc import Callable
from typing import ClassVar, Protocol

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avinet.app.cli.registration import ClusterTrust, ask_to_join
from avinet.app.facts import facts_of
from avinet.app.settings import ControllerSettings
from avinet.app.software import software_version
from avinet.controller.state_engine_files import engine_files
from avinet.errors import AvinetError, Kind, error
from avinet.model.membership import Controller, Membership
from avinet.trust import keys
from avinet.trust.bundle import Bundle
from avinet.trust.ca import bears_key
from avinet.trust.files import destroy, read_private, write_private, write_public
from avinet.trust.joining import ControllerClaims, sign_claims
from avinet.trust.jose import BadDocumentError
from avinet.trust.membership import verify_membership
from avinet.trust.node import ControllerPaths, NodeFacts, read_cluster, write_cluster
from avinet.trust.own_keys import OwnKeys, api_public_key
from avinet.wire.joining import JoinAnswer, StateAdmission


@error
class AlreadyControllerError(AvinetError):
    """{state} is the state folder of controller {name} of cluster {cluster} already. To join, name an empty one."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    state: str
    name: str
    cluster: str


@error
class AnswerWrongError(AvinetError):
    """The answer of the cluster cannot be used: {why}. Nothing of it was kept; ask again, with both sides on one release."""

    why: str


class OwnStateEngine(Protocol):
    """The new controller's half of the state engine."""

    def key(self) -> Ed25519PublicKey:
        """Its key's public half; the key is made if there is none."""

    def admitted(self, admission: StateAdmission) -> None:
        """Write down, durably, what it is to be started with."""


class _Request(msgspec.Struct, frozen=True):
    """``joining.json``: what was asked, and the bytes that ask it."""

    claims: ControllerClaims
    body: bytes


Ask = Callable[[ClusterTrust, tuple[str, ...], bytes], JoinAnswer]


@attrs.frozen
class Join:
    """One run of the command, in a folder that is locked.  Blocking."""

    paths: ControllerPaths
    bundle: Bundle
    facts: NodeFacts
    engine: OwnStateEngine | None
    """None where others run the state engine, or none is set up, which is then refused."""
    ask: Ask = ask_to_join
    wall: Callable[[], float] = time.time

    def run(self) -> Membership:
        """Become a member; the list in which this controller is."""
        if self.paths.cluster.exists():
            cluster, name = read_cluster(self.paths.state)
            raise AlreadyControllerError(state=str(self.paths.state), name=name, cluster=cluster)
        own = OwnKeys.load_or_create(self.paths)
        request = self._request(own)
        trust = ClusterTrust(self.bundle.root, self.bundle.verified())
        answer = self.ask(trust, self.bundle.controllers, request.body)
        listed, me = self._checked(own, answer)
        self._keep(answer, me)
        return listed

    def _request(self, own: OwnKeys) -> _Request:
        claims = ControllerClaims.of(
            own.entry(self.facts),
            cluster=self.bundle.cluster,
            node_key=keys.public_line(own.node.public_key()),
            state_key="" if self.engine is None else keys.public_line(self.engine.key()),
            api_key=api_public_key(self.paths),
            api_names=self.facts.api_names,
            software=software_version(),
            token=self.bundle.token,
            nonce=secrets.token_urlsafe(16),
            issued_at=int(self.wall()),
        )
        before = self._asked_before()
        if before is not None:
            same = msgspec.structs.replace(
                claims, nonce=before.claims.nonce, issued_at=before.claims.issued_at
            )
            if same == before.claims:
                return before
        request = _Request(claims, sign_claims(claims, own.node))
        write_private(self.paths.joining, msgspec.json.encode(request))
        return request

    def _asked_before(self) -> _Request | None:
        """What an earlier run asked; what cannot be read is asked anew, since nothing depends on it."""
        if not self.paths.joining.exists():
            return None
        try:
            return msgspec.json.decode(read_private(self.paths.joining), type=_Request)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _checked(self, own: OwnKeys, answer: JoinAnswer) -> tuple[Membership, Controller]:
        root = self.bundle.root_certificate()
        try:
            listed = verify_membership(answer.membership, root, self.bundle.cluster)
        except BadDocumentError as why:
            raise AnswerWrongError(why=str(why)) from why
        me = listed.by_name(answer.name)
        if me is None or not bears_key(me.node_certificate.encode(), own.node.public_key()):
            raise AnswerWrongError(why="its membership list does not have this controller's key")
        if self.engine is not None and answer.state is None:
            raise AnswerWrongError(why="it says nothing about the state engine")
        return listed, me

    def _keep(self, answer: JoinAnswer, me: Controller) -> None:
        """Everything, and last what makes the folder a controller's."""
        paths = self.paths
        write_public(paths.root_pem, self.bundle.root.encode())
        write_public(paths.membership, answer.membership.encode())
        write_public(paths.node_pem, me.node_certificate.encode())
        if answer.api_certificate:
            write_public(paths.api_pem, answer.api_certificate.encode())
        if self.engine is not None and answer.state is not None:
            self.engine.admitted(answer.state)
        write_cluster(paths, answer.cluster, answer.name)
        destroy(paths.joining)


def join_of(paths: ControllerPaths, bundle: Bundle, settings: ControllerSettings) -> Join:
    """What these settings ask for."""
    own_engine = settings.store.engine == "etcd" and not settings.store.endpoints
    return Join(paths, bundle, facts_of(settings), engine_files(paths.state) if own_engine else None)
