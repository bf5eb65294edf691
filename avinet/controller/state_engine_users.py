"""etcd's users: root, who may change users and members, and one who may read and write keys; then passwords are asked for.

A certificate alone lets nobody in: it only reaches the port.  Every step may be done again, since a crash can follow any.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from avinet.controller.state_engine_files import ROOT_USER, USER
from avinet.store.etcd_gateway import Gateway, RefusedError

_ALL_KEYS = base64.b64encode(b"\0").decode()
"""As the begin of a range and as its end: every key."""
_NOT_ASKED = "authentication is not enabled"
_EXISTS = "already exists"


class _Anything(msgspec.Struct):
    """An answer that says no more than that it was done."""


async def enable_passwords(gateway: Gateway, password: Callable[[str], str]) -> None:
    """Make the two users, each with its ``password``, and have etcd ask for them; nothing when it does already.

    ``gateway`` speaks as root.
    """
    if await asks_for_passwords(gateway, password(ROOT_USER)):
        return
    for user in (ROOT_USER, USER):
        secret = password(user)
        if not await _made(gateway, "auth/user/add", {"name": user, "password": secret}):
            # From a start before this one, perhaps with other files.
            await _done(gateway, "auth/user/changepw", {"name": user, "password": secret})
        await _made(gateway, "auth/role/add", {"name": user})
        await _done(gateway, "auth/user/grant", {"user": user, "role": user})
    everything = {"permType": "READWRITE", "key": _ALL_KEYS, "range_end": _ALL_KEYS}
    await _done(gateway, "auth/role/grant", {"name": USER, "perm": everything})
    await _done(gateway, "auth/enable", {})


async def asks_for_passwords(gateway: Gateway, root_password: str) -> bool:
    """Whether etcd knows root by this password; False while it asks for none.  ``RefusedError`` for another password."""
    try:
        await _done(gateway, "auth/authenticate", {"name": ROOT_USER, "password": root_password})
    except RefusedError as refused:
        if _NOT_ASKED in refused.detail:
            return False
        raise
    return True


async def _done(gateway: Gateway, path: str, request: Mapping[str, Any]) -> None:
    await gateway.ask(path, dict(request), _Anything)


async def _made(gateway: Gateway, path: str, request: Mapping[str, Any]) -> bool:
    """False when it was there."""
    try:
        await _done(gateway, path, request)
    except RefusedError as refused:
        if _EXISTS in refused.detail:
            return False
        raise
    return True
