"""What an SE keeps of its request logs: limits of its group, and throttles of each virtual service.

Where a group's settings are not the defaults, an SE with virtual services of that group is sent one resource more, which
has them: not an SE of a version that does not know it, which would refuse all of its configuration.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs
import msgspec

from avinet.model.config import ServiceEngineGroup, VirtualService
from avinet.model.ids import ObjectId
from avinet.model.logs import LogClass
from avinet.model.resources import Resource
from avinet.units import MIB

KIND = "loglimits"
_SERVICE = "virtualservice"
_DEFAULTS = ServiceEngineGroup(uuid=ObjectId(""), name="")
_HOUR_S = 3600.0
_Thing = TypeVar("_Thing")


class LogLimits(msgspec.Struct, frozen=True, kw_only=True):
    """One group's, for each of its SEs; ``uuid`` is the group's, the others as in ``ServiceEngineGroup``."""

    uuid: ObjectId
    log_disksz: int = _DEFAULTS.log_disksz
    log_age_h: int = _DEFAULTS.log_age_h
    significant_log_throttle: int = _DEFAULTS.significant_log_throttle
    full_log_throttle: int = _DEFAULTS.full_log_throttle


@attrs.frozen
class LogSettings:
    """Of one SE.  Throttles are records a second; 0 for no limit, as for ``max_age_s``."""

    max_bytes: int
    """Of segments, whatever their class."""
    max_age_s: float
    throttle: Mapping[LogClass, int]
    """Of the whole SE."""
    service_throttles: Mapping[ObjectId, Mapping[LogClass, int]]
    """Of each virtual service that has one."""

    @classmethod
    def of(cls, state: Mapping[str, Resource]) -> "LogSettings":
        """What a state says; where groups differ, the tightest of each.

        ``msgspec.MsgspecError`` when something in it cannot be read.
        """
        groups = _decoded(state, KIND, LogLimits) or [LogLimits(uuid=ObjectId(""))]
        return cls(
            max_bytes=min(one.log_disksz for one in groups) * MIB,
            max_age_s=_tightest(one.log_age_h for one in groups) * _HOUR_S,
            throttle={
                LogClass.SIGNIFICANT: _tightest(one.significant_log_throttle for one in groups),
                LogClass.FULL: _tightest(one.full_log_throttle for one in groups),
            },
            service_throttles={
                service.uuid: found
                for service in _decoded(state, _SERVICE, VirtualService)
                if any((found := _throttles(service)).values())
            },
        )


def _throttles(service: VirtualService) -> dict[LogClass, int]:
    policy = service.analytics_policy
    return {
        LogClass.SIGNIFICANT: policy.significant_log_throttle,
        LogClass.FULL: policy.full_client_logs.throttle,
    }


def _tightest(limits: Iterable[int]) -> int:
    return min((limit for limit in limits if limit), default=0)


def _decoded(state: Mapping[str, Resource], kind: str, thing: type[_Thing]) -> list[_Thing]:
    return [
        msgspec.msgpack.decode(resource.body, type=thing)
        for name, resource in state.items()
        if name.partition("/")[0] == kind
    ]


def resource_of_group(group: ServiceEngineGroup) -> Resource | None:
    """What SEs with virtual services of this group are sent; None where all is as usual."""
    told = LogLimits(
        uuid=group.uuid,
        log_disksz=group.log_disksz,
        log_age_h=group.log_age_h,
        significant_log_throttle=group.significant_log_throttle,
        full_log_throttle=group.full_log_throttle,
    )
    if told == LogLimits(uuid=group.uuid):
        return None
    return Resource(f"{KIND}/{group.uuid}", msgspec.msgpack.encode(told))
