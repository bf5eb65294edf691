"""Writes of the configuration while controllers fail: one writer at each controller, and the order of what was acknowledged."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import attrs

from avinet.app.cli.client import Client
from avinet.errors import AvinetError
from benchmarks.beside import Beside

PAUSE_S = 0.15
"""Between two writes of one writer."""


@attrs.frozen
class Written:
    """One write that was acknowledged.  Times are seconds of one clock."""

    began: float
    ended: float
    name: str
    version: int


def out_of_order(written: Iterable[Written]) -> Iterator[str]:
    """What cannot be: a version that two have, and one that is not above all that were acknowledged before it was asked for."""
    by_end = sorted(written, key=lambda one: one.ended)
    for version, count in Counter(one.version for one in by_end).items():
        if count > 1:
            yield f"{count} writes were acknowledged as version {version}"
    acknowledged, last = iter(by_end), Written(0, 0, "", 0)
    waiting = next(acknowledged, None)
    for one in sorted(by_end, key=lambda one: one.began):
        while waiting is not None and waiting.ended < one.began:
            last = max(last, waiting, key=lambda each: each.version)
            waiting = next(acknowledged, None)
        if one.version <= last.version:
            yield f"{one.name} is version {one.version}, though {last.name} was {last.version} before it"


@attrs.define(eq=False)
class Writer(Beside):
    """Writes pools, each with a name of its own, through one controller; one at a time."""

    name: str
    client: Client
    acknowledged: list[Written] = attrs.field(factory=list)
    _number: int = attrs.field(default=0, init=False)

    def _run(self) -> None:
        while not self._over.wait(PAUSE_S):
            self._number += 1
            name = f"fault-{self.name}-{self._number}"
            pool = {"kind": "Pool", "name": name, "servers": [{"ip": "10.0.0.9", "port": 9}]}
            began = time.monotonic()
            with contextlib.suppress(AvinetError):
                version = int(self.client.post("/api/config", [pool])["version"])
                self.acknowledged.append(Written(began, time.monotonic(), name, version))


@attrs.frozen(eq=False)
class Writers:
    """Several at once, so that one that waits for a controller that says nothing does not keep the others from asking."""

    each: Sequence[Writer]

    def start(self) -> None:
        """All."""
        for writer in self.each:
            writer.start()

    def stop(self) -> None:
        """All."""
        for writer in self.each:
            writer.stop()

    def acknowledged(self) -> list[Written]:
        """By all, since the beginning; the oldest first."""
        found = [written for writer in self.each for written in tuple(writer.acknowledged)]
        return sorted(found, key=lambda one: one.ended)

    def longest_gap(self, begun: float, ended: float) -> float:
        """Seconds without an acknowledged write between two instants."""
        within = sorted(one.ended for one in self.acknowledged() if begun <= one.ended <= ended)
        return max(after - before for before, after in itertools.pairwise([begun, *within, ended]))
