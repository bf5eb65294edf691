"""Objects as they may be shown: to API clients, in differences and in the history.  What is secret is left out."""

from typing import Any

import msgspec

from avinet.model.config import ConfigObject, SSLKeyAndCertificate

SECRET_FIELDS: dict[type[ConfigObject], tuple[str, ...]] = {SSLKeyAndCertificate: ("key",)}
CERTIFICATE_FACTS = frozenset(
    {"subject", "issuer", "names", "not_before", "not_after", "fingerprint", "key_type", "days_left"}
)
"""What the API adds to a certificate; whoever sends it back sends it in vain."""


def shown_fields(thing: ConfigObject) -> dict[str, Any]:
    """The object's fields as JSON values (lists, not tuples), without secrets; the caller may change them."""
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(thing))
    for name in SECRET_FIELDS.get(type(thing), ()):
        del made[name]
    return made
