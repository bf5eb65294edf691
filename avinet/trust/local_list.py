"""The membership list in a controller's state folder, and when a controller may sign the next one by itself.

The copy is what a controller knows before it reaches its store, and after a power cut before any store answers.
"""

from pathlib import Path

import attrs
import msgspec

from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.trust.ca import RootCa
from avinet.trust.files import write_public
from avinet.trust.membership import ControllerRemovedError, changed, sign_membership, verify_membership


@attrs.frozen
class SignedList:
    """A list and the document that says it."""

    membership: Membership
    document: str = attrs.field(repr=False)


def read_list(path: Path, root: RootCa, cluster: ClusterId, name: ControllerName) -> SignedList | None:
    """The list on disk, if there is one; ``ControllerRemovedError`` when ``name`` is not in it."""
    if not path.exists():
        return None
    document = path.read_bytes().decode("ascii", "replace")
    found = verify_membership(document, root.certificate, cluster)
    if found.by_name(name) is None:
        raise ControllerRemovedError(name=name, number=found.number)
    return SignedList(found, document)


def unsigned(me: Controller, listed: Membership, *, guessed: bool) -> Controller:
    """``me`` without what is no reason to need the root key."""
    known = listed.by_name(me.name)
    if known is None:
        return me
    if guessed:
        me = msgspec.structs.replace(me, addresses=known.addresses)
    if not known.id_controller:
        # An earlier release signed that list.  A controller without others needs no key for them.
        me = msgspec.structs.replace(me, id_controller="")
    return me


def may_sign(listed: Membership, me: Controller) -> bool:
    """Whether a new list may be signed here and now: not where others may have signed one that only the store has."""
    known = listed.by_name(me.name)
    return known != me and len(listed.controllers) == 1 and not me.state_client_port


def sign_list(
    path: Path, root: RootCa, before: SignedList | None, me: Controller, cluster: ClusterId
) -> SignedList:
    """A list of this controller alone, the next after ``before``, on disk."""
    if before is None:
        after = Membership(cluster=cluster, number=1, controllers=(me,))
    else:
        after = changed(before.membership, (me,))
    document = sign_membership(root.key, after)
    write_public(path, document.encode())
    return SignedList(after, document)
