"""What all benchmarks share: options, one line a figure, and the same line as JSON.

A figure that has no peer or no target in the same run says so with null; ``met`` is then true, since there is
nothing to miss.  Figures go to standard output, progress to standard error.
"""

import argparse
import sys
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure beside its peer's."""

    figure: str
    value: float
    unit: str
    peer: float | None = None
    target: str | None = None
    met: bool = True


def options(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short form: minutes, smaller counts")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of text")
    return parser


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
