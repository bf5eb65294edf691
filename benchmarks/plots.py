"""Measures, draws and writes down what ``docs/performance.md`` shows, in one go; ``make figures`` runs it.

    python -m benchmarks.plots [--quick] [--redraw]

First all figures of ``benchmarks.channel``, then throughput against RTT, then heartbeats beside a pull.  What was
measured is kept in ``docs/figures/measured.json``; ``--redraw`` draws from it without measuring.  The page is
written by people but for what stands between its two marks.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cryptography
import matplotlib as mpl
import msgspec
from cryptography.hazmat.backends.openssl import backend
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from avinet.units import GIB, MIB
from benchmarks import files, latency
from benchmarks.harness import Figure, options, progress, quantile

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "figures"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- measured: make figures -->\n", "<!-- end of what was measured -->\n"

RTTS_MS = (0.0, 1.0, 5.0, 20.0, 70.0, 150.0)
COLOURS = {"avinet": "#1f5fa8", "openssh": "#c2571a"}
NAMES = {"avinet": "avinet", "openssh": "OpenSSH"}
GREY = "#666666"
SIZE_INCHES = (7.2, 4.0)


class Sweep(msgspec.Struct, frozen=True):
    """MiB/s by RTT, in order of ``RTTS_MS``, and by party."""

    size_mib: int
    rounds: int
    rates: dict[str, list[float]]


class Measured(msgspec.Struct, frozen=True):
    """All that is shown."""

    machine: list[str]
    figures: list[Figure]
    sweep: Sweep
    heartbeats_ms: dict[str, list[float]]
    """The percentiles from 0 to 100."""
    shares: dict[str, float]


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout + done.stderr).strip().split("\n")[0]


def machine() -> list[str]:
    """What was measured on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = cpu[1] if cpu else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    openssl = " ".join(backend.openssl_version_text().split()[:2])
    said = (
        f"{os.cpu_count()} cores ({model}) and {memory:.0f} GiB, which both ends, their peers and the link share",
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}",
        f"cryptography {cryptography.__version__} with {openssl}",
        _said("ssh", "-V"),
        f"AsyncSSH {_asyncssh()}",
    )
    return [line for line in said if line]


def _asyncssh() -> str:
    import asyncssh  # it is slow to import, and only asked for its version

    return asyncssh.__version__


def _channel(*, quick: bool) -> list[Figure]:
    """As ``benchmarks.channel`` prints them."""
    command = (sys.executable, "-m", "benchmarks.channel", "--json", *(("--quick",) if quick else ()))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [msgspec.json.decode(line, type=Figure) for line in done.stdout.splitlines()]


def _sweep(*, quick: bool) -> Sweep:
    size, rounds = (64 * MIB, 1) if quick else (512 * MIB, 3)
    rates: dict[str, list[float]] = {}
    with files.folder_for(size) as folder:
        given = files.Files(folder, size)
        for rtt_ms in RTTS_MS:
            progress("at {rtt:g} ms", rtt=rtt_ms)
            for party, rate in files.compare(given, rounds, rtt_ms=rtt_ms).items():
                rates.setdefault(party, []).append(rate)
    return Sweep(size // MIB, rounds, rates)


def measure(*, quick: bool) -> Measured:
    """Everything; up to half an hour."""
    figures = _channel(quick=quick)
    sweep = _sweep(quick=quick)
    for_s = 10.0 if quick else 60.0
    with files.folder_for(MIB) as folder:
        given = files.Files(folder, MIB)
        outcomes = {"avinet": latency.avinet(given, for_s), "openssh": latency.openssh(given, for_s)}
    there = {party: outcome for party, outcome in outcomes.items() if outcome is not None}
    return Measured(
        machine(),
        figures,
        sweep,
        {party: _percentiles(outcome.rtt_ms) for party, outcome in there.items()},
        {party: outcome.share for party, outcome in there.items()},
    )


def _percentiles(values: Sequence[float]) -> list[float]:
    return [round(quantile(values, percent / 100), 1) for percent in range(101)]


# Drawing


def _axes(title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, name: str) -> None:
    FIGURES.mkdir(exist_ok=True)
    # Neither a date nor random ids: what did not change does not differ.
    figure.savefig(FIGURES / name, metadata={"Date": None})
    plt.close(figure)


def draw_throughput(sweep: Sweep) -> None:
    """Against RTT: ticks at equal distances, rates on a logarithmic scale, so that a ratio is a distance."""
    figure, axes = _axes(
        f"One file of {sweep.size_mib} MiB through a link of that RTT (MiB/s, best of {sweep.rounds})"
    )
    at = range(len(RTTS_MS))
    for party, rates in sweep.rates.items():
        axes.plot(at, rates, marker="o", color=COLOURS[party], linewidth=2)
        for x, rate in zip(at, rates, strict=True):
            above = rate == max(other[x] for other in sweep.rates.values())
            axes.annotate(
                f"{rate:.0f}", (x, rate), xytext=(0, 7 if above else -15), textcoords="offset points",
                ha="center", fontsize=9, color=COLOURS[party],
            )  # fmt: skip
        axes.annotate(
            NAMES[party], (at[-1], rates[-1]), xytext=(14, -3), textcoords="offset points",
            color=COLOURS[party], fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.margins(x=0.06, y=0.16)
    axes.set_xticks(at, [f"{rtt:g}" for rtt in RTTS_MS])
    axes.set_xlabel("RTT of the link (ms)")
    _save(figure, "throughput-rtt.svg")


def draw_latency(heartbeats_ms: dict[str, list[float]]) -> None:
    """How many of the heartbeats are back by when."""
    link = f"{latency.MBIT:g} Mbit/s, {latency.RTT_MS:g} ms, {latency.BUFFER_MB:g} MiB of buffer"
    figure, axes = _axes(f"Heartbeats that are back, beside bulk on a link of {link}")
    for party, rtt_ms in heartbeats_ms.items():
        axes.plot(rtt_ms, range(len(rtt_ms)), color=COLOURS[party], linewidth=2)
        axes.annotate(
            f"{NAMES[party]}\np99 {rtt_ms[99]:.0f} ms", (rtt_ms[60], 60), xytext=(8, 0),
            textcoords="offset points", va="center", color=COLOURS[party], fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    for value, says, side in (
        (latency.RTT_MS, "the link, idle", "right"),
        (latency.TARGET_MS, "target of p99", "left"),
    ):
        axes.axvline(value, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{says}: {value:g} ms", (value, 4), xytext=(3 if side == "left" else -3, 0),
            textcoords="offset points", fontsize=8, color=GREY, rotation=90, va="bottom", ha=side,
        )  # fmt: skip
    axes.set_xlim(left=0.8 * latency.RTT_MS)
    axes.set_ylim(0, 101)
    axes.set_xlabel("round-trip time of a heartbeat (ms)")
    axes.set_ylabel("back by then (%)")
    _save(figure, "latency-under-load.svg")


# The page


def _row(one: Figure) -> str:
    peer = "" if one.peer is None else f"{one.peer:g}"
    ratio = f"{one.value / one.peer:.2f}" if one.peer else ""
    met = "" if one.target is None else "yes" if one.met else "**no**"
    return f"| {one.figure} | {one.value:g} {one.unit} | {peer} | {ratio} | {one.target or ''} | {met} |"


def _sweep_row(sweep: Sweep) -> str:
    if "openssh" not in sweep.rates:
        return ""
    pairs = zip(RTTS_MS, sweep.rates["avinet"], sweep.rates["openssh"], strict=True)
    said = ", ".join(f"{ours / theirs:.1f} at {rtt:g} ms" for rtt, ours, theirs in pairs)
    return f"Times OpenSSH: {said}."


def written(measured: Measured) -> str:
    """The part of the page that is measured."""
    shares = ", ".join(f"{NAMES[party]} {share:.0f} %" for party, share in measured.shares.items())
    lines = [
        *("Measured on:", "", *(f"- {line}" for line in measured.machine), ""),
        *("| figure | avinet | peer | ratio | target | met |", "|---|---|---|---|---|---|"),
        *map(_row, measured.figures),
        *("", "![Throughput against round-trip time](figures/throughput-rtt.svg)", ""),
        *(_sweep_row(measured.sweep), ""),
        *("![Heartbeats beside bulk](figures/latency-under-load.svg)", ""),
        f"Share of the link that bulk had meanwhile: {shares}.",
    ]
    return "\n".join(lines) + "\n"


def write_page(measured: Measured) -> None:
    """Between the marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + written(measured) + END + after)


def main() -> None:
    """As said above."""
    parser: argparse.ArgumentParser = options("Measure and draw what docs/performance.md shows.")
    parser.add_argument("--redraw", action="store_true", help="from docs/figures/measured.json")
    arguments = parser.parse_args()
    kept = FIGURES / "measured.json"
    if arguments.redraw:
        measured = msgspec.json.decode(kept.read_bytes(), type=Measured)
    else:
        measured = measure(quick=arguments.quick)
        FIGURES.mkdir(exist_ok=True)
        kept.write_bytes(msgspec.json.format(msgspec.json.encode(measured)) + b"\n")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "avinet"
    draw_throughput(measured.sweep)
    draw_latency(measured.heartbeats_ms)
    write_page(measured)


if __name__ == "__main__":
    main()
