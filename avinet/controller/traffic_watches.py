"""What is being watched: figures that somebody looks at are reported every few seconds.

A look opens a watch, which ends some minutes after the last look.  Each service engine is told the whole list of what
is watched and placed on it, whenever that changes.
"""

from collections.abc import Iterator

import attrs

from avinet.controller.traffic_intake import Subject
from avinet.controller.traffic_places import Places
from avinet.model.ids import SeId

WATCH_S = 600.0
"""After the last look."""
MAX_WATCHED = 100
"""Virtual services and pools at once; each costs its SEs some 40 bytes a second, and here 100 KiB for the hour."""


@attrs.define(eq=False)
class Watches:
    """Who is watched until when, and what each SE was told."""

    places: Places
    _until: dict[Subject, float] = attrs.field(factory=dict, init=False, repr=False)
    """Those looked at last are last."""
    _told: dict[SeId, frozenset[str]] = attrs.field(factory=dict, init=False, repr=False)
    """No entry: nothing."""

    def look(self, subject: Subject, now: float) -> float:
        """Somebody looks; until when it is watched.  The one not looked at for longest makes room."""
        self._until.pop(subject, None)
        while len(self._until) >= MAX_WATCHED:
            del self._until[next(iter(self._until))]
        self._until[subject] = now + WATCH_S
        return now + WATCH_S

    def watched(self, subject: Subject) -> bool:
        """Whether it is."""
        return subject in self._until

    def expire(self, now: float) -> None:
        """Drop those that nobody looks at, and what exists no more."""
        for subject in [one for one, until in self._until.items() if until <= now]:
            del self._until[subject]
        for subject in [one for one in self._until if not self.places.exists(one)]:
            del self._until[subject]

    def attached(self, se: SeId) -> None:
        """A new session knows of no watch."""
        self._told.pop(se, None)

    def news(self) -> Iterator[tuple[SeId, tuple[str, ...]]]:
        """SEs that are to be told another list; they count as told."""
        wanted: dict[SeId, set[str]] = {}
        for subject in self._until:
            for se in self.places.engines_of(subject):
                wanted.setdefault(se, set()).add(f"{subject.kind}/{subject.uuid}")
        for se in wanted.keys() | self._told.keys():
            names = frozenset(wanted.get(se, ()))
            if self._told.get(se, frozenset()) == names:
                continue
            if self.places.fleet.session(se) is None:
                continue
            if names:
                self._told[se] = names
            else:
                self._told.pop(se, None)
            yield se, tuple(sorted(names))
