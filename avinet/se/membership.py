"""The membership list as this SE has it: the highest number ever seen, on disk before it is believed."""

from collections.abc import Callable
from typing import Self

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.model.membership import Membership
from avinet.rest.tls import ControllerClientOptions, Dates, controller_client_options
from avinet.se.paths import SePaths, StateDamagedError
from avinet.se.registration_client import RegistrationHttp, causes
from avinet.trust.files import write_public
from avinet.trust.membership import newer, verify_membership
from avinet.wire.registration import registration_addresses

_log = Logger()

Listener = Callable[[Membership], None]


@attrs.define(eq=False)
class MembershipFile:
    """The list and the root that it must be signed by."""

    paths: SePaths
    root: x509.Certificate
    current: Membership
    _listeners: list[Listener] = attrs.field(factory=list, init=False, repr=False)

    @classmethod
    def load(cls, paths: SePaths) -> Self:
        """Read and verify what is on disk; ``StateDamagedError`` when it is not there or not whole."""
        try:
            root = x509.load_pem_x509_certificate(paths.root_certificate.read_bytes())
            return cls(paths, root, verify_membership(paths.membership.read_text(), root))
        except (OSError, ValueError, AvinetError) as failure:
            raise StateDamagedError(path=paths.image, detail=str(failure)) from failure

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with each newer list."""
        self._listeners.append(listener)

    def take(self, document: str) -> bool:
        """Believe a list that the root signed; True when it is newer.  Raises what ``trust.membership`` does."""
        membership = newer(self.current, document, self.root)
        if membership.number == self.current.number:
            return False
        write_public(self.paths.membership, document.encode())
        self.current = membership
        for listener in self._listeners:
            listener(membership)
        return True

    def refresh(self, http: RegistrationHttp) -> Deferred[bool]:
        """Ask the controllers in turn for a newer list; True when one had it."""
        return Deferred.fromCoroutine(self._refresh(http))

    async def _refresh(self, http: RegistrationHttp) -> bool:
        for address in registration_addresses(self.current):
            if await self.refresh_from(http, address):
                return True
        return False

    async def refresh_from(self, http: RegistrationHttp, address: str) -> bool:
        """Ask one controller; True when it had a newer list.  A failure is logged and nothing else."""
        try:
            answer = await http.membership(address)
            return answer.status == 200 and self.take(answer.body.decode("ascii"))
        except CancelledError:
            raise
        except (AvinetError, UnicodeDecodeError) as failure:
            _log.warn("{address} sent no usable list: {why}", address=address, why=str(failure))
        except Exception as failure:  # noqa: BLE001 - any failure to reach one controller leads to the next
            _log.warn("cannot reach {address}: {why}", address=address, why=str(causes(failure)))
        return False

    def tls_options(self, listed: bool, dates: Dates = "strict") -> ControllerClientOptions:  # noqa: FBT001 - the form that RegistrationClient calls
        """How to check a controller by the list of now; once enrolled, ``dates`` should only ``warn``."""
        return controller_client_options(
            self.root.public_bytes(Encoding.PEM),
            self.current.cluster,
            self.current,
            dates=dates,
            listed=listed,
        )
