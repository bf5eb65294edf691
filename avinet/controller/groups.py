"""What a group of service engines says about those that belong to it, for the parts that know an SE or a group by name."""

import attrs

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.model.config import DOWN_DELAY_S, ConfigObject, ServiceEngineGroup
from avinet.model.ids import SeId

SHOWN_MEMBERS = 3


@attrs.frozen(eq=False)
class Groups:
    """Read anew each time: groups change, and SEs come and go."""

    config: ConfigService
    engines: Engines

    def networks(self, group: str) -> tuple[str, ...]:
        """Where its SEs may log in from; empty for anywhere."""
        found = self.config.group(group)
        return () if found is None else found.allowed_networks

    def down_delay_s(self, group: str) -> float:
        """How long one of its SEs may be gone before its virtual services move."""
        found = self.config.group(group)
        return DOWN_DELAY_S if found is None else found.down_delay_s

    def command_classes(self, se: SeId) -> tuple[str, ...] | None:
        """What controllers may use an SE for; None when there is no such SE or group any more."""
        record = self.engines.find(se)
        found = None if record is None else self.config.group(record.group)
        return None if found is None else tuple(map(str, found.commands))

    def why_needed(self, thing: ConfigObject) -> str:
        """SEs name their group, so a group with SEs stays; empty for what nobody needs."""
        if not isinstance(thing, ServiceEngineGroup):
            return ""
        members = [record.name for record in self.engines.all() if record.group == thing.name]
        shown = ", ".join(members[:SHOWN_MEMBERS]) + (" and others" if len(members) > SHOWN_MEMBERS else "")
        return f"{len(members)} service engines belong to it ({shown})" if members else ""
