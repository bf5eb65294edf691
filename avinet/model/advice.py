"""What is worth a word about a configuration that is right all the same: an operator sees it after a change.

Nothing here keeps a change from being made.  A certificate that expired is one: to refuse it would refuse a backup, or
the correction of something else in the same file.
"""

from collections.abc import Iterable

import msgspec

from avinet.model.certificates import (
    MAX_BUNDLE,
    CertificateFacts,
    PemError,
    facts_of,
    facts_of_certificate,
    parse_certificates,
    parse_chain,
)
from avinet.model.checks_certificate import CHAIN, SOON_DAYS, dates
from avinet.model.checks_service import unreachable
from avinet.model.config import (
    ApplicationProfile,
    ConfigObject,
    IpAddrType,
    Pool,
    SSLKeyAndCertificate,
    VirtualService,
    kind_of,
)
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId
from avinet.model.problems import Found

MAX_ADVICE = 50
"""More than anyone reads."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One warning about one field."""

    kind: str
    name: str
    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.path}: {self.why}"


def advice(configuration: Configuration, about: Iterable[ObjectId], now: float) -> tuple[Advice, ...]:
    """Warnings about some of the objects, at ``now`` (UNIX seconds); ``MAX_ADVICE`` at most."""
    found: list[Advice] = []
    for uuid in about:
        stored = configuration.objects.get(uuid)
        if stored is None:
            continue
        thing = stored.thing
        for path, why in _about(configuration, thing, now):
            found.append(Advice(kind=kind_of(thing), name=thing.name, path=path, why=why))
            if len(found) >= MAX_ADVICE:
                return tuple(found)
    return tuple(found)


def _about(configuration: Configuration, thing: ConfigObject, now: float) -> Found:
    match thing:
        case SSLKeyAndCertificate():
            yield from _certificate(thing, now)
        case VirtualService():
            yield from _service(thing)
            yield from _certificates_of(configuration, thing, now)
        case Pool():
            yield from _pool(thing, now)


def _certificate(thing: SSLKeyAndCertificate, now: float) -> Found:
    facts = _facts(thing)
    if facts is None:
        return
    if why := dates(facts, now):
        yield CHAIN, why
    for number, certificate in enumerate(parse_chain(thing.certificate.certificate)[1:], 2):
        if why := dates(facts_of_certificate(certificate), now):
            yield CHAIN, f"certificate {number} of the chain: {why}"
    if not facts.has_alternative_names:
        yield CHAIN, "it has no subjectAltName, and clients ignore the common name"


def _facts(thing: ConfigObject) -> CertificateFacts | None:
    if not isinstance(thing, SSLKeyAndCertificate):
        return None
    try:
        return facts_of(thing.certificate.certificate)
    except PemError:
        return None  # stored by other rules than today's


def _service(service: VirtualService) -> Found:
    plain = [one.port for one in service.services if not one.enable_ssl]
    if service.ssl_key_and_certificate_refs and len(plain) == len(service.services):
        yield "ssl_key_and_certificate_refs", "none of services has enable_ssl, so these are not used"
    if service.http_to_https and not plain:
        yield "http_to_https", "every port has TLS, so there is nothing to redirect"
    if service.application_profile_ref is ApplicationProfile.HTTP:
        for index, earlier in unreachable(service.routes):
            yield f"routes[{index}]", f"it is never reached: routes[{earlier}] takes all of it"


def _certificates_of(configuration: Configuration, service: VirtualService, now: float) -> Found:
    seen: dict[tuple[frozenset[str], str], int] = {}
    for index, ref in enumerate(service.ssl_key_and_certificate_refs):
        stored = configuration.objects.get(ref)
        facts = None if stored is None else _facts(stored.thing)
        if stored is None or facts is None:
            continue
        path = f"ssl_key_and_certificate_refs[{index}]"
        # Two keys of different kinds for one name are no slip: a client gets the one it can use.
        kind = facts.key_type.partition("-")[0]
        first = seen.setdefault((frozenset(facts.names), kind), index)
        if first != index:
            names = ", ".join(facts.names[:3])
            yield (
                path,
                f"it has the names of ssl_key_and_certificate_refs[{first}] ({names}), which is used for them",
            )
        if facts.days_left(now) < SOON_DAYS or facts.not_before.timestamp() > now:
            yield path, f"{stored.thing.name}: {dates(facts, now)}"


def _pool(pool: Pool, now: float) -> Found:
    if pool.ssl_profile_ref is None:
        return
    if not pool.ca_certs:
        yield (
            "ca_certs",
            "without any, the servers' certificates are not verified: whoever is between can pose as one",
        )
    elif not pool.server_name:
        nameless = [
            index
            for index, one in enumerate(pool.servers)
            if not one.hostname and one.ip.type is not IpAddrType.DNS
        ]
        if nameless:
            why = f"without it, servers[{nameless[0]}], which has no hostname, is verified by its CA alone"
            yield "server_name", f"{why}, not by its name"
    for index, pem in enumerate(pool.ca_certs):
        yield from _bundle(pem, f"ca_certs[{index}]", now)


def _bundle(pem: str, path: str, now: float) -> Found:
    try:
        certificates = parse_certificates(pem, MAX_BUNDLE)
    except PemError:
        return
    for number, certificate in enumerate(certificates, 1):
        facts = facts_of_certificate(certificate)
        if facts.not_after.timestamp() <= now:
            yield path, f"certificate {number} ({facts.subject[:100]}): {dates(facts, now)}"
