"""What all benchmarks share: options, targets, one line a figure, and the same line as JSON.

A figure that has no target says so with null; ``met`` is then true, since there is nothing to miss.  A target that
is a multiple of a peer is not met when the peer could not be measured: nobody has shown that it is.  Figures go to
standard output, progress to standard error.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

DIGITS = 4
"""Of a figure as printed; no benchmark here repeats to more than two."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure beside its peer's."""

    figure: str
    value: float
    unit: str
    peer: float | None = None
    target: str | None = None
    met: bool = True


@attrs.frozen
class Target:
    """``<=`` or ``>=`` a number; with ``of_peer``, that many times what the peer does.

    Its text is for machines: ``>= 400``, ``>= 2 x peer``; several are joined by `` and ``.
    """

    sign: str
    number: float
    of_peer: bool = False

    def __str__(self) -> str:
        return f"{self.sign} {self.number:g}{' x peer' if self.of_peer else ''}"

    def met(self, value: float, peer: float | None) -> bool:
        """By ``value``."""
        if self.of_peer and peer is None:
            return False
        bound = self.number * (peer or 0.0) if self.of_peer else self.number
        return value <= bound if self.sign == "<=" else value >= bound


def at_most(number: float) -> Target:
    """``<= number``."""
    return Target("<=", number)


def at_least(number: float) -> Target:
    """``>= number``."""
    return Target(">=", number)


def times_peer(number: float) -> Target:
    """``>= number x peer``."""
    return Target(">=", number, of_peer=True)


def options(description: str, pieces: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; ``--only`` where it has pieces."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short form: minutes, smaller counts")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of text")
    if pieces:
        parser.add_argument(
            "--only", action="append", choices=pieces, metavar="PIECE",
            help=f"one piece, or some when repeated: {', '.join(pieces)}",
        )  # fmt: skip
    return parser


def report(
    arguments: argparse.Namespace,
    figure: str,
    value: float,
    unit: str,
    *targets: Target,
    peer: float | None = None,
) -> Figure:
    """Judge a figure and print it."""
    value, peer = _rounded(value), None if peer is None else _rounded(peer)
    judged = Figure(
        figure=figure,
        value=value,
        unit=unit,
        peer=peer,
        target=" and ".join(map(str, targets)) or None,
        met=all(target.met(value, peer) for target in targets),
    )
    show(judged, arguments)
    return judged


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def show(figure: Figure, arguments: argparse.Namespace) -> None:
    """Print one figure."""
    if arguments.json:
        print(msgspec.json.encode(figure).decode(), flush=True)
        return
    peer = "" if figure.peer is None else f", peer {figure.peer:g}"
    target = "" if figure.target is None else f", target {figure.target}: {'met' if figure.met else 'MISSED'}"
    print(f"{figure.figure}: {figure.value:g} {figure.unit}{peer}{target}", flush=True)


def progress(text: str, **facts: Any) -> None:
    """Say what is going on, on standard error."""
    print(text.format(**facts), file=sys.stderr, flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
