"""What must hold within a key and its certificates, and what is worth a word though it may stay."""

from itertools import pairwise

from cryptography import x509

from avinet.model.certificates import (
    CURVES,
    MAX_BUNDLE,
    MAX_RSA_BITS,
    MIN_RSA_BITS,
    CertificateFacts,
    PemError,
    facts_of,
    facts_of_certificate,
    key_type,
    parse_certificates,
    parse_chain,
    parse_key,
    same_key,
    signs,
    weak_hash,
)
from avinet.model.config import SSLKeyAndCertificate
from avinet.model.problems import Found

CHAIN = "certificate.certificate"
SOON_DAYS = 30
"""A CA that renews by itself does so at this age."""


def check_certificate(thing: SSLKeyAndCertificate) -> Found:
    """Problems of one."""
    chain: tuple[x509.Certificate, ...] = ()
    try:
        chain = parse_chain(thing.certificate.certificate)
        facts_of(thing.certificate.certificate)
    except PemError as why:
        yield CHAIN, str(why)
    for number, certificate in enumerate(chain, 1):
        yield from _one(number, certificate, last=number == len(chain))
    for number, (subject, issuer) in enumerate(pairwise(chain), 1):
        if not signs(issuer, subject):
            text = (
                f"certificate {number + 1} does not sign certificate {number}; order them leaf first, "
                "each followed by its issuer"
            )
            yield CHAIN, text
    try:
        key = parse_key(thing.key)
    except PemError as why:
        yield "key", str(why)
        return
    if chain and not same_key(chain[0], key):
        other = next((n for n, one in enumerate(chain[1:], 2) if same_key(one, key)), None)
        where = "" if other is None else f", but to certificate {other}: the leaf comes first"
        yield "key", f"it does not belong to the certificate{where}"


def _one(number: int, certificate: x509.Certificate, *, last: bool) -> Found:
    try:
        kind = key_type(certificate.public_key())
    except Exception:  # noqa: BLE001 - whatever the library says of a key that it does not know
        kind = "of a kind that is not known"
    name, _, size = kind.partition("-")
    if name == "RSA" and not MIN_RSA_BITS <= int(size) <= MAX_RSA_BITS:
        yield (
            CHAIN,
            f"certificate {number} has {size} bits of RSA; {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed",
        )
    if number == 1 and name != "RSA" and not (name == "EC" and size in CURVES):
        text = f"its key is {kind}; RSA and EC on P-256, P-384 or P-521 are what clients take"
        yield CHAIN, f"{text} (no browser does Ed25519)" if name == "Ed25519" else text
    root = last and number > 1 and certificate.issuer == certificate.subject
    # Nobody looks at a root's own signature.
    if (weak := weak_hash(certificate)) and not root:
        yield (
            CHAIN,
            f"certificate {number} is signed with {weak.upper()}, which can be forged; SHA-256 is the least",
        )


def check_bundle(pem: str, path: str) -> Found:
    """Problems of a text of CA certificates."""
    try:
        for certificate in parse_certificates(pem, MAX_BUNDLE):
            facts_of_certificate(certificate)
    except PemError as why:
        yield path, str(why)


def dates(facts: CertificateFacts, now: float) -> str:
    """What is odd about a certificate's dates at ``now`` (UNIX seconds); empty when nothing is."""
    until, left = f"{facts.not_after:%Y-%m-%d %H:%M} UTC", facts.days_left(now)
    if facts.not_after.timestamp() <= now:
        return f"it expired on {until}; clients refuse it"
    if facts.not_before.timestamp() > now:
        return f"it is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC; clients refuse it until then"
    if left < SOON_DAYS:
        return f"it expires in {left} days, on {until}" if left != 1 else f"it expires in a day, on {until}"
    return ""
