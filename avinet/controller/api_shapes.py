"""Configuration objects as API clients see them, in the shapes that the Avi SDK and its playbooks expect.

Beside the object's own fields: ``url``, ``_last_modified`` (microseconds, as text) and ``tenant_ref``; references are
``/api/<kind>/<uuid>#<name>``.  All of it can be sent back as it is.  Private keys are not shown: an object that comes
back without its key keeps the one it has.
"""

from typing import Any

from avinet.model.config import kind_of
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ObjectId
from avinet.model.references import references_of
from avinet.model.shown import shown_fields

TENANT = "/api/tenant/admin#admin"
"""The one tenant there is."""


def reference(configuration: Configuration, uuid: ObjectId) -> str:
    """A reference as an URL with the name behind it."""
    thing = configuration.objects[uuid].thing
    return f"/api/{kind_of(thing)}/{uuid}#{thing.name}"


def shape(configuration: Configuration, stored: Stored) -> dict[str, Any]:
    """One object as JSON values."""
    thing = stored.thing
    made = shown_fields(thing)
    for path, uuid in references_of(thing):
        _put(made, path, reference(configuration, uuid))
    kind = kind_of(thing)
    return {
        "url": f"/api/{kind}/{thing.uuid}",
        "_last_modified": str(stored.modified_us),
        "tenant_ref": TENANT,
        **made,
    }


def _put(made: dict[str, Any], path: str, value: str) -> None:
    """Set what ``routes[2].pool_ref`` or ``health_monitor_refs[0]`` says."""
    at: Any = made
    *outer, last = path.replace("[", ".").replace("]", "").split(".")
    for step in outer:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
