"""Several things done at once, as one that is waited for."""

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

_T = TypeVar("_T")


async def together(doing: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """What each gives, in their order.  The first error ends the others and is raised as it is; so does giving it up."""
    waiting = [Deferred.fromCoroutine(one) for one in doing]
    try:
        return list(await gatherResults(waiting, consumeErrors=True))
    except FirstError as why:
        for one in waiting:
            one.cancel()
        cause: BaseException = why.subFailure.value or why
        raise cause from None
