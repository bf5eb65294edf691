"""Whether what somebody sent is much to plan: that is done where it keeps nobody waiting."""

from collections.abc import Mapping, Sequence
from typing import Any

MANY_VALUES = 1_000
"""In few documents: some 5 ms.  One may have 8 MiB of them, and the largest that are right take seconds."""
TEXT_OF_A_VALUE = 100
"""Characters of text that count as one more: certificates are parsed."""


def is_large(documents: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is more in them than is looked at in a moment."""
    left = MANY_VALUES
    waiting: list[Any] = list(documents)
    while waiting and left >= len(waiting):
        value = waiting.pop()
        left -= 1
        if isinstance(value, str):
            left -= len(value) // TEXT_OF_A_VALUE
        elif isinstance(value, dict):
            if len(value) > left:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            if len(value) > left:
                return True
            waiting += value
    return left < len(waiting)
