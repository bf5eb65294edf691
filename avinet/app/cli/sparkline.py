"""Figures over time in a line of a terminal."""

import sys
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-~=+*#"
"""Where the output cannot show blocks."""
WIDTH = 60
EIGHTHS = "▏▎▍▌▋▊▉"


def sparkline(values: Sequence[float | None], *, blocks: bool | None = None) -> str:
    """One letter a value, 0 the lowest and the largest the highest; a blank where nothing is known.

    The newest ``WIDTH`` values; ``blocks`` as standard output can, where it is not said.
    """
    shown = values[-WIDTH:]
    letters = BLOCKS if (_can_blocks() if blocks is None else blocks) else PLAIN
    highest = max((value for value in shown if value is not None), default=0.0)
    line = ""
    for value in shown:
        if value is None:
            line += " "
            continue
        # Anything at all is told from nothing.
        level = 0 if value <= 0 or highest <= 0 else max(1, round(value / highest * (len(letters) - 1)))
        line += letters[level]
    return line


def bar(value: float, most: float, width: int, *, blocks: bool | None = None) -> str:
    """A bar of ``width`` letters for ``most``, in eighths of a letter where the output can show them."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * width * 8))
    if not (_can_blocks() if blocks is None else blocks):
        return "#" * max(1, round(eighths / 8))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (EIGHTHS[rest - 1] if rest else "")


def _can_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in {"utf8", "utf16"}
