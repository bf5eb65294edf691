"""Configuration objects as API clients see them, in the shapes that the Avi SDK and its playbooks expect.

Beside the object's own fields: ``url``, ``_last_modified`` (microseconds, as text) and ``tenant_ref``; references are
``/api/<kind>/<uuid>#<name>``.  All of it can be sent back as it is.  Private keys are not shown: an object that comes
back without its key keeps the one it has.
"""

from datetime import datetime
from typing import Any

from avinet.model.certificates import PemError, facts_of
from avinet.model.config import SSLKeyAndCertificate, kind_of
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ObjectId
from avinet.model.references import references_of
from avinet.model.shown import shown_fields

NAMED = {"application_profile_ref": "applicationprofile", "ssl_profile_ref": "sslprofile"}
"""References to what the Avi API has objects for, and we have names."""
TENANT = "/api/tenant/admin#admin"
"""The one tenant there is."""


def reference(configuration: Configuration, uuid: ObjectId) -> str:
    """A reference as an URL with the name behind it."""
    thing = configuration.objects[uuid].thing
    return f"/api/{kind_of(thing)}/{uuid}#{thing.name}"


def shape(configuration: Configuration, stored: Stored, now: float | None = None) -> dict[str, Any]:
    """One object as JSON values; at ``now`` (UNIX seconds) a certificate has so many days left."""
    thing = stored.thing
    made = shown_fields(thing)
    if isinstance(thing, SSLKeyAndCertificate):
        made["certificate"] |= _certificate(thing, now)
    for name, kind in NAMED.items():
        if made.get(name):
            made[name] = f"/api/{kind}/{made[name]}#{made[name]}"
    for path, uuid in references_of(thing):
        _put(made, path, reference(configuration, uuid))
    kind = kind_of(thing)
    return {
        "url": f"/api/{kind}/{thing.uuid}",
        "_last_modified": str(stored.modified_us),
        "tenant_ref": TENANT,
        **made,
    }


def _certificate(thing: SSLKeyAndCertificate, now: float | None) -> dict[str, Any]:
    """What the leaf says, under the names of ``avinet.model.shown.CERTIFICATE_FACTS``."""
    try:
        facts = facts_of(thing.certificate.certificate)
    except PemError:
        return {}  # stored by other rules than today's
    said: dict[str, Any] = {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": list(facts.names),
        "not_before": _moment(facts.not_before),
        "not_after": _moment(facts.not_after),
        "fingerprint": facts.fingerprint,
        "key_type": facts.key_type,
    }
    return said if now is None else {**said, "days_left": facts.days_left(now)}


def _moment(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _put(made: dict[str, Any], path: str, value: str) -> None:
    """Set what ``routes[2].pool_ref`` or ``health_monitor_refs[0]`` says."""
    at: Any = made
    *outer, last = path.replace("[", ".").replace("]", "").split(".")
    for step in outer:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
