"""Objects as they may be shown: to API clients, in differences and in the history.  What is secret is left out."""

from typing import Any

import msgspec

from avinet.model.config import ConfigObject, SSLKeyAndCertificate

SECRET_FIELDS: dict[type[ConfigObject], tuple[str, ...]] = {SSLKeyAndCertificate: ("key",)}


def shown_fields(thing: ConfigObject) -> dict[str, Any]:
    """The object's fields as JSON values (lists, not tuples), without secrets; the caller may change them."""
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(thing))
    for name in SECRET_FIELDS.get(type(thing), ()):
        del made[name]
    return made
