"""What refers to what: by whom an object is used, and what goes where it goes."""

from collections.abc import Iterator

from avinet.model.config import ConfigObject, Pool, VirtualService, kind_of
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId


def references_of(thing: ConfigObject) -> Iterator[tuple[str, ObjectId]]:
    """(path, what it refers to); paths as in errors, ``routes[2].pool_ref``."""
    if isinstance(thing, VirtualService):
        yield "pool_ref", thing.pool_ref
        for index, route in enumerate(thing.routes):
            yield f"routes[{index}].pool_ref", route.pool_ref
        for index, ref in enumerate(thing.ssl_key_and_certificate_refs):
            yield f"ssl_key_and_certificate_refs[{index}]", ref
        yield "se_group_ref", thing.se_group_ref
    elif isinstance(thing, Pool):
        for index, ref in enumerate(thing.health_monitor_refs):
            yield f"health_monitor_refs[{index}]", ref
        if thing.ssl_key_and_certificate_ref is not None:
            yield "ssl_key_and_certificate_ref", thing.ssl_key_and_certificate_ref


def pools_of(service: VirtualService) -> Iterator[tuple[str, ObjectId]]:
    """(path, pool) of a virtual service: the one for all that is left, and those of its routes."""
    yield "pool_ref", service.pool_ref
    for index, route in enumerate(service.routes):
        yield f"routes[{index}].pool_ref", route.pool_ref


def check_deletes(deletes: frozenset[ObjectId], after: Configuration) -> Iterator[tuple[ObjectId, str]]:
    """Deleted objects that others still refer to: (object, why)."""
    for stored in after.objects.values():
        for path, ref in references_of(stored.thing):
            if ref in deletes:
                yield ref, f"{kind_of(stored.thing)} {stored.thing.name!r} refers to it ({path})"
