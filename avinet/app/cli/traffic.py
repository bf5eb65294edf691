"""``avinet vs stats``, ``avinet pool stats`` and ``avinet pool servers``: figures and health, once or again and again."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.output import moment, print_facts, print_json, print_table, text_of
from avinet.app.cli.sparkline import sparkline
from avinet.units import show_bytes, show_duration

WATCH_S = 5.0
"""As often as the figures of what is watched come."""
PAGE = 200
POOL_ONLY = ("retries", "connect_failures", "timeouts", "no_server", "refused_by_limit")

watch_option = click.option("--watch", "-w", is_flag=True, help="Show it anew each 5 s, until interrupted.")


@examples(
    "avinet vs stats                  # all of them",
    "avinet vs stats web --watch      # one, each 5 s",
    "avinet vs stats web --json       # also the last hour, minute by minute",
)
@click.command("stats", cls=Command)
@click.argument("name", required=False)
@watch_option
@place
def service_stats(where: Place, name: str | None, watch: bool) -> None:  # noqa: FBT001 - click's
    """Requests, answers, bytes and latency of the virtual service NAME, or of all."""
    _stats(where, "virtualservice", name, watch=watch)


@examples("avinet pool stats", "avinet pool stats web-pool --watch")
@click.command("stats", cls=Command)
@click.argument("name", required=False)
@watch_option
@place
def pool_stats(where: Place, name: str | None, watch: bool) -> None:  # noqa: FBT001 - click's
    """Requests, answers, bytes and latency of the pool NAME, or of all."""
    _stats(where, "pool", name, watch=watch)


@examples("avinet pool servers web-pool", "avinet pool servers web-pool --watch")
@click.command("servers", cls=Command)
@click.argument("name")
@watch_option
@place
def pool_servers(where: Place, name: str, watch: bool) -> None:  # noqa: FBT001 - click's
    """The servers of the pool NAME: state, why and since when, and their requests."""
    client = where.client()
    _show(
        where,
        lambda: client.get(path_to("pool", name, "servers"), timeout_s=30.0),
        _print_servers,
        watch=watch,
    )


def _stats(where: Place, kind: str, name: str | None, *, watch: bool) -> None:
    client = where.client()
    if name is None:
        _show(where, lambda: {"results": list(_inventory(client, kind))}, _print_inventory, watch=watch)
    else:
        _show(where, lambda: client.get(path_to(kind, name, "stats")), _print_stats, watch=watch)


def _inventory(client: Client, kind: str) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        answer = client.get(path_to(f"{kind}-inventory"), {"page": page, "page_size": PAGE})
        yield from answer["results"]
        if "next" not in answer:
            return
        page += 1


def _show(
    where: Place,
    fetch: Callable[[], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    *,
    watch: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Once, or for ever: a screen each time on a terminal, a JSON document a line for programs."""
    while True:
        answer = fetch()
        if where.json:
            if watch:
                click.echo(json.dumps(answer, ensure_ascii=False))
            else:
                print_json(answer)
        else:
            if watch:
                click.clear()
            show(answer)
        if not watch:
            return
        sleep(WATCH_S)


# One


def _print_stats(answer: dict[str, Any]) -> None:
    now, series, totals = answer["now"], answer["series"], answer["totals"]
    print_facts(
        {
            "name": answer["name"],
            "health": _health(answer),
            "now": _now(now, answer["connections"]),
            "in all": _in_all(totals),
            **_pool_facts(totals),
        }
    )
    step_s = answer["step_s"]
    if series["at"]:
        # The newest step is not over yet.
        lengths = [max(1.0, min(step_s, answer["at"] - at)) for at in series["at"]]
        per_s = [count / length for count, length in zip(series["requests"], lengths, strict=True)]
        click.echo(f"\nsince {moment(series['at'][0])}, a bar is {show_duration(step_s)}")
        lines = {
            "requests/s": (per_s, f"at most {max(per_s):.4g}"),
            "5xx": (series["responses_5xx"], f"{sum(series['responses_5xx'])} in all"),
            "p99": (series["p99_ms"], f"{_ms(answer['latency_ms']['p99'])} over all"),
            "connections": (series["connections"], f"at most {max(series['connections'])}"),
        }
        print_facts({name: f"{sparkline(values)}  {said}" for name, (values, said) in lines.items()})
    click.echo()
    print_table(
        ("service engine", "connected", "reported", "connections", "requests", "5xx"),
        (
            (
                one["name"],
                one["connected"],
                moment(one["reported_at"]),
                one["connections"],
                one["counts"].get("requests"),
                one["counts"].get("responses_5xx"),
            )
            for one in answer["service_engines"]
        ),
        empty="No service engine has it.",
    )


def _health(answer: dict[str, Any]) -> str:
    since = f" since {moment(answer['since'])}" if answer.get("since") else ""
    why = f": {text_of(answer['reason'])}" if answer["reason"] else ""
    return f"{answer['health']}{why}{since}"


def _now(now: dict[str, Any], connections: int) -> str:
    latency = now["latency_ms"]
    return (
        f"{now['requests_per_s']:.4g} requests/s, 5xx {_share(now['share_5xx'])}, "
        f"p50 {_ms(latency['p50'])}, p90 {_ms(latency['p90'])}, p99 {_ms(latency['p99'])}, "
        f"in {show_bytes(int(now['bytes_in_per_s']))}/s, out {show_bytes(int(now['bytes_out_per_s']))}/s, "
        f"{connections} connections open ({show_duration(now['window_s'])} from {moment(now['begun_at'])})"
    )


def _in_all(totals: dict[str, int]) -> str:
    classes = [
        f"{totals[f'responses_{digit}xx']} {digit}xx"
        for digit in range(1, 6)
        if totals[f"responses_{digit}xx"]
    ]
    answers = f" ({', '.join(classes)})" if classes else ""
    return (
        f"{totals['requests']} requests{answers}, {totals['connections_total']} connections, "
        f"in {show_bytes(totals['bytes_in'])}, out {show_bytes(totals['bytes_out'])}"
    )


def _pool_facts(totals: dict[str, int]) -> dict[str, str]:
    """What only pools have, and only what is not 0."""
    found = [f"{totals[name]} {name.replace('_', ' ')}" for name in POOL_ONLY if totals.get(name)]
    return {"trouble": ", ".join(found)} if found else {}


# All


def _print_inventory(answer: dict[str, Any]) -> None:
    print_table(
        ("name", "health", "requests/s", "5xx", "p50", "p99", "connections", "reason"),
        (
            (
                row["config"]["name"],
                row["health"],
                f"{row['now']['requests_per_s']:.4g}",
                _share(row["now"]["share_5xx"]),
                _ms(row["now"]["latency_ms"]["p50"]),
                _ms(row["now"]["latency_ms"]["p99"]),
                row["connections"],
                row["reason"],
            )
            for row in answer["results"]
        ),
        empty="There is none yet; see: avinet config apply --help",
    )


# Servers


def _print_servers(answer: dict[str, Any]) -> None:
    print_facts({"pool": answer["name"], "health": f"{answer['health']}{_because(answer['reason'])}"})
    click.echo()
    print_table(
        ("server", "state", "since", "requests", "errors", "connections", "where", "reason"),
        (
            (
                row["server"],
                row["state"],
                moment(row["since"]),
                row["requests"],
                row["errors"],
                row["connections"],
                _where(row),
                row["reason"] or _last_failure(row["last_failure"]),
            )
            for row in answer["results"]
        ),
        empty="It has no servers.",
    )


def _because(reason: str) -> str:
    return f": {text_of(reason)}" if reason else ""


def _where(row: dict[str, Any]) -> str:
    """Which SEs find it up, where they do not agree."""
    if row["state"] != "PARTLY":
        return ""
    return ", ".join(f"{one['name']} {one['state']}" for one in row["service_engines"])


def _last_failure(failure: dict[str, Any] | None) -> str:
    if failure is None or failure["until"] is None:
        return ""
    lasted = show_duration(max(0.0, failure["until"] - failure["since"]))
    return f"(up again {moment(failure['until'])} after {lasted}: {failure['reason'] or failure['failure']})"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} ms"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"
