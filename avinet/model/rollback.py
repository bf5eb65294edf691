"""Going back: the change that makes the objects of an older version of what there is, or every reason against it."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.model.checks import check_object, check_together
from avinet.model.config import ConfigObject, kind_of
from avinet.model.configuration import Configuration
from avinet.model.plan import Plan, title
from avinet.model.problems import MAX_PROBLEMS, Problem


@error
class RollbackRefusedError(AvinetError):
    """Version {version} does not fit any more, so the configuration was not changed. {summary}"""

    kind: ClassVar[Kind] = Kind.CONFLICT
    version: int
    problems: tuple[Problem, ...]

    @property
    def summary(self) -> str:
        """All of them in one text, a line each."""
        return "".join(f"\n  {problem}" for problem in self.problems)

    def __str__(self) -> str:
        return f"Version {self.version} does not fit any more, so the configuration was not changed.{self.summary}"


def plan_rollback(
    before: Configuration, target: Configuration, in_use: Callable[[ConfigObject], str]
) -> Plan:
    """From ``before`` to the objects of ``target``.

    ``in_use`` says why something outside the configuration needs an object.  ``RollbackRefusedError`` has every
    reason: an object that would go is needed, or one that would come is against the rules of today.
    """
    created: list[ConfigObject] = []
    updated: list[ConfigObject] = []
    for uuid, stored in target.objects.items():
        old = before.objects.get(uuid)
        if old is None:
            created.append(stored.thing)
        elif old.thing != stored.thing:
            updated.append(stored.thing)
    deleted = [stored.thing for uuid, stored in before.objects.items() if uuid not in target.objects]
    puts = (*created, *updated)
    problems = tuple(_problems(puts, deleted, target, in_use))[:MAX_PROBLEMS]
    if problems:
        raise RollbackRefusedError(version=target.version, problems=problems)
    return Plan(
        puts=puts,
        deletes=tuple(thing.uuid for thing in deleted),
        created=tuple(sorted(map(title, created))),
        updated=tuple(sorted(map(title, updated))),
        deleted=tuple(sorted(map(title, deleted))),
        unchanged=(),
    )


def _problems(
    puts: Sequence[ConfigObject],
    deleted: Sequence[ConfigObject],
    target: Configuration,
    in_use: Callable[[ConfigObject], str],
) -> Iterator[Problem]:
    for thing in deleted:
        if why := in_use(thing):
            text = f"it was not there then, and cannot be deleted: {why}"
            yield Problem(0, kind_of(thing), thing.name, "", text)
    for thing in puts:
        for path, why in check_object(thing):
            yield Problem(0, kind_of(thing), thing.name, path, why)
    for uuid, path, why in check_together({thing.uuid: 0 for thing in puts}, target):
        thing = target.objects[uuid].thing
        yield Problem(0, kind_of(thing), thing.name, path, why)
