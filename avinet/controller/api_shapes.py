"""Configuration objects as API clients see them, in the shapes that the Avi SDK and its playbooks expect.

Beside the object's own fields: ``url``, ``_last_modified`` (microseconds, as text) and ``tenant_ref``; references are
``/api/<kind>/<uuid>#<name>``.  All of it can be sent back as it is.
"""

from typing import Any

import msgspec

from avinet.model.checks import references_of
from avinet.model.config import kind_of
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ObjectId

TENANT = "/api/tenant/admin#admin"
"""The one tenant there is."""


def reference(configuration: Configuration, uuid: ObjectId) -> str:
    """A reference as an URL with the name behind it."""
    thing = configuration.objects[uuid].thing
    return f"/api/{kind_of(thing)}/{uuid}#{thing.name}"


def shape(configuration: Configuration, stored: Stored) -> dict[str, Any]:
    """One object as JSON values."""
    thing = stored.thing
    made: dict[str, Any] = msgspec.to_builtins(thing)
    for path, uuid in references_of(thing):
        name, _, index = path.partition("[")
        if index:
            made[name] = list(made[name])
            made[name][int(index[:-1])] = reference(configuration, uuid)
        else:
            made[name] = reference(configuration, uuid)
    kind = kind_of(thing)
    return {
        "url": f"/api/{kind}/{thing.uuid}",
        "_last_modified": str(stored.modified_us),
        "tenant_ref": TENANT,
        **made,
    }
