"""The SE's side of enrolment: sign once, ask for ever, believe only a verified answer, then destroy the means.

Everything is a file before it is a step, so that a crash at any line leaves a state from which the next start
goes on: keys are made before the request is signed, the request is on disk before it is sent, the newest
membership list before the answer, and the answer before the image key, the token and the request are destroyed.
``enrolled.json`` is the one sign of being enrolled.

The same bytes are sent until there is an answer, since the controller may have bound them already.  When the
operator gave other meta-info or another image meanwhile, the old request is tried first; only when it is
refused for good is a new one signed.
"""

import base64
import json
import secrets
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ImageId
from avinet.rest.tls import CertificateUnlistedError
from avinet.se.identity import SeIdentity
from avinet.se.membership import MembershipFile
from avinet.se.paths import SePaths, StateDamagedError
from avinet.se.registration_client import Answer, RegistrationHttp, causes
from avinet.ssh.backoff import Backoff
from avinet.trust import keys
from avinet.trust.files import destroy, private_dir, read_private, write_private
from avinet.trust.registration import Claims, sign_request
from avinet.wire.registration import EnrolmentAnswer, MetaInfo, PendingAnswer, registration_addresses

REFUSED_FOR_GOOD = frozenset({400, 403, 409, 410})

_log = Logger()


@error
class EnrolmentFailedError(AvinetError):
    """The controller at {address} refused to enrol this machine (HTTP {status}): {detail}"""

    kind: ClassVar[Kind] = Kind.DENIED
    address: str
    status: int
    detail: str


@error
class NoMetaInfoError(AvinetError):
    """This machine is not enrolled and was told nothing: {path} does not exist. Start it with --meta-info FILE; avinet se token create prints one."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: str


@error
class NoImageError(AvinetError):
    """This machine is not enrolled and has no image: {path} does not exist. Start it with --image FILE."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: str


@error
class AnswerError(AvinetError):
    """The controller at {address} answered something this agent cannot believe: {detail}"""

    kind: ClassVar[Kind] = Kind.INVALID
    address: str
    detail: str


def read_enrolled(paths: SePaths) -> EnrolmentAnswer | None:
    """The facts of this SE, or None while it is not enrolled."""
    if not paths.enrolled.exists():
        return None
    try:
        return msgspec.json.decode(read_private(paths.enrolled), type=EnrolmentAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise StateDamagedError(path=paths.enrolled, detail=str(failure)) from failure


def destroy_means(paths: SePaths) -> None:
    """What enrolment needed and nothing else does: image key, request, token.  Safe to repeat."""
    destroy(paths.image_key)
    destroy(paths.request)
    if paths.meta_info.exists():
        try:
            meta = _read_meta_info(paths)
        except StateDamagedError:
            destroy(paths.meta_info)  # it may still show the token, and nothing needs it any more
            return
        if meta.token:
            write_private(paths.meta_info, msgspec.json.encode(msgspec.structs.replace(meta, token="")))


def _read_meta_info(paths: SePaths) -> MetaInfo:
    try:
        return msgspec.json.decode(read_private(paths.meta_info), type=MetaInfo)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise StateDamagedError(path=paths.meta_info, detail=str(failure)) from failure


@attrs.define(eq=False)
class Enroller:
    """Enrols this machine, once.  ``image`` is the id of the unpacked image."""

    paths: SePaths
    image: ImageId
    http: RegistrationHttp
    members: MembershipFile
    clock: IReactorTime
    backoff: Backoff = attrs.field(factory=lambda: Backoff(secrets.SystemRandom().random))

    def enrol(self) -> Deferred[EnrolmentAnswer]:
        """Fires with the facts once they are on disk; fails only where asking again is useless.  Cancellable."""
        return Deferred.fromCoroutine(self._enrol())

    async def _enrol(self) -> EnrolmentAnswer:
        enrolled = read_enrolled(self.paths)
        if enrolled is None:
            if not self.paths.meta_info.exists():
                raise NoMetaInfoError(path=str(self.paths.meta_info))
            enrolled = await self._ask_until_answered(_read_meta_info(self.paths))
        destroy_means(self.paths)
        return enrolled

    async def _ask_until_answered(self, meta: MetaInfo) -> EnrolmentAnswer:
        body = self._request(meta)
        while True:
            last: Answer | None = None
            addresses = meta.controllers or registration_addresses(self.members.current)
            if not addresses:
                _log.error("neither the meta-info nor the image names a controller")
            for address in addresses:
                answer = await self._send(address, body)
                if answer is None:
                    continue
                last = answer
                try:
                    enrolled = self._judge(address, answer)
                except EnrolmentFailedError:
                    if not self._outdated(body, meta):
                        raise
                    _log.warn("the request of an earlier start was refused; signing a new one")
                    destroy(self.paths.request)
                    return await self._ask_until_answered(meta)
                if enrolled is not None:
                    return enrolled
            await self._wait(last)

    async def _send(self, address: str, body: bytes) -> Answer | None:
        try:
            return await self.http.enrol(address, body)
        except CancelledError:
            raise
        except Exception as failure:  # noqa: BLE001 - any failure to reach a controller is tried again
            _log.warn("cannot reach the controller at {address}: {why}", address=address, why=_why(failure))
            if any(isinstance(cause, CertificateUnlistedError) for cause in causes(failure)):
                await self.members.refresh_from(self.http, address)
            return None

    def _request(self, meta: MetaInfo) -> bytes:
        """The signed request on disk; made, and synced, if there is none."""
        if self.paths.request.exists():
            return read_private(self.paths.request)
        if not self.paths.image_key.exists():
            raise NoImageError(path=str(self.paths.image_key))
        identity = SeIdentity.load_or_create(self.paths)
        claims = Claims(
            cluster=meta.cluster,
            image=self.image,
            se_key=identity.se_line,
            se_host_key=identity.host_line,
            token=meta.token or None,
            nonce=secrets.token_urlsafe(16),
            issued_at=int(self.clock.seconds()),
        )
        body = sign_request(claims, keys.load(self.paths.image_key), identity.se_key)
        private_dir(self.paths.enrolment)
        write_private(self.paths.request, body)
        return body

    def _outdated(self, body: bytes, meta: MetaInfo) -> bool:
        """Whether the request on disk is from before the meta-info or the image of now."""
        payload: str = json.loads(body)["payload"]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        signed = (claims["image"], claims.get("token"), claims["cluster"])
        return bool(signed != (self.image, meta.token or None, meta.cluster))

    def _judge(self, address: str, answer: Answer) -> EnrolmentAnswer | None:
        """The facts, on disk; None when to ask again; raises when that is useless."""
        if answer.status == 200:
            return self._accept(address, answer)
        if answer.status in REFUSED_FOR_GOOD:
            raise EnrolmentFailedError(address=address, status=answer.status, detail=answer.problem_text())
        if answer.status == 202:
            self._say_pending(answer)
        else:
            _log.warn(
                "the controller at {address} cannot enrol this machine now (HTTP {status}): {why}",
                address=address,
                status=answer.status,
                why=answer.problem_text(),
            )
        return None

    def _say_pending(self, answer: Answer) -> None:
        try:
            pending = msgspec.json.decode(answer.body, type=PendingAnswer)
        except msgspec.DecodeError:
            return
        _log.info(
            "{name} waits for approval; this machine's key is {fingerprint}",
            name=pending.name,
            fingerprint=SeIdentity.load_or_create(self.paths).fingerprint,
        )

    def _accept(self, address: str, answer: Answer) -> EnrolmentAnswer | None:
        try:
            enrolled = self._read(address, answer)
            self.members.take(enrolled.membership)
            private_dir(self.paths.enrolment)
            write_private(self.paths.enrolled, msgspec.json.encode(enrolled))
        except AvinetError as failure:
            _log.error("{address} enrolled this machine, but: {why}", address=address, why=str(failure))
            return None
        _log.info("enrolled as {name} ({se})", name=enrolled.name, se=enrolled.se)
        return enrolled

    def _read(self, address: str, answer: Answer) -> EnrolmentAnswer:
        try:
            enrolled = msgspec.json.decode(answer.body, type=EnrolmentAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
            raise AnswerError(address=address, detail=str(failure)) from failure
        if enrolled.cluster != self.members.current.cluster:
            raise AnswerError(address=address, detail=f"it is for cluster {enrolled.cluster}")
        return enrolled

    async def _wait(self, answer: Answer | None) -> None:
        asked_s = None if answer is None else answer.retry_after_s
        if asked_s is not None:
            self.backoff.reset()
        # The certificate was checked before an answer is read, so a longer wait than a stranger's is believed.
        await deferLater(self.clock, self.backoff.next_wait_s(asked_s, proven=True), lambda: None)


def _why(failure: Exception) -> str:
    return "; ".join(f"{cause}" or type(cause).__name__ for cause in causes(failure))
