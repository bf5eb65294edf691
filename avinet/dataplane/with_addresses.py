"""A data plane whose virtual services' addresses are put on the host first, where their group says so.

Addresses come before the listeners that need them, and go after the listeners are gone: whole or not at all, with what
the data plane itself does.  What is in force is read from the host, as it is read from the data plane.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.dataplane.host_addresses import HostAddressError, HostAddresses
from avinet.dataplane.interface import DataPlane, LogFiles, RejectedError, Status
from avinet.errors import AvinetError
from avinet.model.resources import Resource
from avinet.model.vip_interface import HostAddress, addresses_by_resource, is_vip_interface

MISSING = "missing"
"""Stands for the hash of an interface whose addresses are not all there: no resource has it."""

_log = Logger()


@attrs.define(eq=False)
class WithAddresses:
    """``inner`` gets everything but our own resources."""

    inner: DataPlane
    host: HostAddresses
    in_thread: Callable[..., Deferred[Any]]
    _digests: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)
    _wanted: dict[str, frozenset[HostAddress]] = attrs.field(factory=dict, init=False, repr=False)
    """Of the state that was applied last, by resource."""

    @property
    def description(self) -> str:
        """The inner one's."""
        return self.inner.description

    def start(self, state: Mapping[str, Resource] | None = None) -> Deferred[None]:
        """Addresses first; one that cannot be had now is no reason not to start."""
        return Deferred.fromCoroutine(self._start(state))

    async def _start(self, state: Mapping[str, Resource] | None) -> None:
        if state:
            try:
                wanted = _wanted_of(state)
                self._remember(state, wanted)
                if wanted:
                    await self.in_thread(self.host.add, _all(wanted))
            except (AvinetError, OSError) as why:
                _log.error("addresses of virtual services cannot be had: {why}", why=str(why))
        await self.inner.start(None if state is None else _others(state))

    def on_restart(self, callback: Callable[[], None]) -> None:
        """The inner one's."""
        self.inner.on_restart(callback)

    def apply(self, state: Mapping[str, Resource]) -> Deferred[None]:
        """Addresses, then the rest, then what is no longer wanted goes."""
        return Deferred.fromCoroutine(self._apply(state))

    async def _apply(self, state: Mapping[str, Resource]) -> None:
        wanted = _wanted_of(state)
        added: list[HostAddress] = []
        if wanted:
            try:
                added = await self.in_thread(self.host.add, _all(wanted))
            except HostAddressError as why:
                raise RejectedError(resource=next(iter(wanted)), detail=str(why).rstrip(".")) from why
        try:
            await self.inner.apply(_others(state))
        except BaseException:
            if added:
                await self.in_thread(self.host.take_back, added)
            raise
        self._remember(state, wanted)
        await self.in_thread(self.host.keep_only, _all(wanted))

    def _remember(self, state: Mapping[str, Resource], wanted: dict[str, frozenset[HostAddress]]) -> None:
        self._wanted = wanted
        self._digests = {name: state[name].digest for name in wanted}

    def in_force(self) -> Deferred[Mapping[str, str]]:
        """What the inner one has, and the interfaces whose addresses are there."""
        return Deferred.fromCoroutine(self._in_force())

    async def _in_force(self) -> Mapping[str, str]:
        found = dict(await self.inner.in_force())
        if self._wanted:
            try:
                missing = set(await self.in_thread(self.host.missing, _all(self._wanted)))
            except HostAddressError as why:
                _log.warn("the host's addresses cannot be read: {why}", why=str(why))
                missing = set(_all(self._wanted))
            for name, addresses in self._wanted.items():
                found[name] = MISSING if addresses & missing else self._digests[name]
        return found

    def status(self) -> Deferred[Status]:
        """The inner one's."""
        return self.inner.status()

    def log_files(self) -> LogFiles:
        """The inner one's."""
        return self.inner.log_files()

    def reopen_logs(self) -> Deferred[None]:
        """The inner one's."""
        return self.inner.reopen_logs()

    def detach(self) -> Deferred[None]:
        """Leave it running, addresses and all."""
        return self.inner.detach()

    def stop(self) -> Deferred[None]:
        """End it, and take back what was put on the host for it."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.inner.stop()
        await self.in_thread(self.host.keep_only, frozenset())


def _wanted_of(state: Mapping[str, Resource]) -> dict[str, frozenset[HostAddress]]:
    try:
        return addresses_by_resource(state)
    except msgspec.MsgspecError as why:
        name = next((name for name in state if is_vip_interface(name)), "")
        raise RejectedError(resource=name, detail=f"it cannot be read: {why}") from why


def _all(wanted: Mapping[str, frozenset[HostAddress]]) -> frozenset[HostAddress]:
    return frozenset().union(*wanted.values())


def _others(state: Mapping[str, Resource]) -> dict[str, Resource]:
    return {name: resource for name, resource in state.items() if not is_vip_interface(name)}
