"""``avinet se``: service engines, from creation to deletion."""

import time
from pathlib import Path
from typing import Any, Self

import attrs
import click

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.config import all_of
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.leaving import (
    BASE,
    delete,
    disable,
    find,
    load_of,
    print_services,
    quarantine,
    run_command,
)
from avinet.app.cli.meta_info import keep_meta_info, meta_info_option, place_of, show_meta_info
from avinet.app.cli.output import milliseconds, moment, print_facts, print_json, print_table
from avinet.app.cli.tokens import tokens
from avinet.model.engine import SeState
from avinet.units import show_bytes

DEFAULT_GROUP = "Default-Group"
STATES = tuple(state.value for state in SeState)
"""What a list can be narrowed to; deleted ones are in no other list."""
NONE_YET = "There is no service engine yet; make one: avinet se create"
NONE_MATCHES = "No service engine matches; see all: avinet se list"
NAMED = ("pool", "virtualservice")
PENDING, QUARANTINED = SeState.PENDING.value, SeState.QUARANTINED.value


LATER = {
    "copy": "avinet.app.cli.files:copy",
    "exec": "avinet.app.cli.remote:execute",
    "ssh": "avinet.app.cli.remote:ssh",
    "stop": "avinet.app.cli.stopping:stop",
}


@click.group("se", cls=Group, later=LATER)
def engines() -> None:
    """Service engines: create, watch, approve, reach and delete them."""


engines.add_command(tokens)
for _leaving in (disable, quarantine, delete):
    engines.add_command(_leaving)


@examples(
    "avinet se create --name se-1 --cloud local       # started on this machine",
    "avinet se create --name se-9 --out se-9.json     # by hand: prints what to run on the machine",
)
@engines.command()
@click.option("--name", required=True, help="What the service engine is called.")
@click.option("--group", default=DEFAULT_GROUP, show_default=True, help="Its service engine group.")
@click.option(
    "--cloud",
    default="manual",
    show_default=True,
    help="What makes the machine: local (processes on the controller's machine) or manual (you).",
)
@meta_info_option
@place
def create(where: Place, name: str, group: str, cloud: str, out: Path | None) -> None:
    """Create a service engine, and its machine unless that is made by hand."""
    with place_of(out) as file:
        made = where.client().post(path_to(BASE), {"name": name, "group": group, "cloud": cloud})
        engine, meta = made["engine"], made.get("meta_info")
        if meta is not None:
            done = f"Service engine {engine['name']} was created"
            remedy = f"For another: avinet se token create --se {engine['name']} --out FILE"
            keep_meta_info(meta, file, done=done, remedy=remedy)
    if where.json:
        print_json(made if out is None else {"engine": engine})
        return
    click.echo(f"Service engine {engine['name']} was created: {engine['uuid']}, {engine['loopback']}.")
    if meta is not None:
        show_meta_info(meta, out)


@engines.command("list")
@click.option("--name", help="Only the one of this name.")
@click.option("--group", help="Only those of this group.")
@click.option("--state", metavar="STATE", help=f"Only those in this state: {', '.join(STATES)}.")
@place
def list_all(where: Place, name: str | None, group: str | None, state: str | None) -> None:
    """Every service engine with its state."""
    if state is not None and state.upper() not in STATES:
        raise UsageError(
            what=f"{state!r} is no state of a service engine; the states are {', '.join(STATES)}"
        )
    query = {"name": name, "group": group, "state": state.upper() if state else None}
    answer = where.client().get(path_to(BASE), query)
    if where.json:
        print_json(answer)
        return
    print_table(
        ("name", "state", "in sync", "services", "group", "loopback", "rtt", "config", "software", "uuid"),
        (
            (
                row["name"],
                row["state"],
                "keeps newer" if row.get("restored_behind") else row["in_sync"],
                load_of(row),
                row["group"],
                row["loopback"],
                milliseconds(row.get("rtt_ms")),
                row.get("version"),
                row.get("software"),
                row["uuid"],
            )
            for row in answer["results"]
        ),
        empty=NONE_MATCHES if any(query.values()) else NONE_YET,
    )


@examples("avinet se show se-1", "avinet se show se-1 --runtime    # asks the engine for health and counters")
@engines.command()
@click.argument("engine")
@click.option("--runtime", is_flag=True, help="What its data plane reports now, too.")
@place
def show(where: Place, engine: str, runtime: bool) -> None:  # noqa: FBT001 - click passes options by name
    """All that is known of ENGINE (a name or a UUID)."""
    client = where.client()
    row = find(client, engine)
    now = client.get(path_to(BASE, row["uuid"], "runtime")) if runtime else None
    if where.json:
        print_json(row if now is None else {**row, "runtime": now})
        return
    _print(where, row)
    if now is not None:
        _print_runtime(now, _Names.of(client))


@examples("avinet se approve se-1 --fingerprint SHA256:...   # as the machine's own log shows it")
@engines.command()
@click.argument("engine")
@click.option("--fingerprint", help="Approve only this SE key; compare it with what the machine shows.")
@place
def approve(where: Place, engine: str, fingerprint: str | None) -> None:
    """Let ENGINE, which waits for approval, join."""
    before = find(where.client(), engine)
    said = "" if before["state"] == PENDING else "did not wait for approval; nothing was done"
    run_command(where, engine, "approve", {"fingerprint": fingerprint} if fingerprint else {}, said)


@engines.command()
@click.argument("engine")
@place
def enable(where: Place, engine: str) -> None:
    """Bring ENGINE back from disabled or quarantined."""
    before = find(where.client(), engine)
    said = "comes back within two minutes" if before["state"] == QUARANTINED else ""
    run_command(where, engine, "enable", {}, said)


@engines.command("place")
@click.argument("engine")
@place
def allow_placement(where: Place, engine: str) -> None:
    """Allow virtual services on ENGINE, which enrolled by its image alone."""
    before = find(where.client(), engine)
    said = "was allowed virtual services already; nothing was done" if before["placeable"] else ""
    run_command(where, engine, "place", {}, said)


def _print(where: Place, row: dict[str, Any]) -> None:
    if where.json:
        print_json(row)
        return
    shown = {
        name.replace("_", " "): value
        for name, value in row.items()
        if name not in {"url", "secure_channel", "virtual_services", "leaving"}
    }
    shown |= {"created at": moment(row.get("created_at")), "enrolled at": moment(row.get("enrolled_at"))}
    print_facts(shown)
    if row.get("virtual_services"):
        print_services(row["virtual_services"])
    if row.get("secure_channel"):
        _print_channel(row["secure_channel"])


def _print_channel(now: dict[str, Any]) -> None:
    rate, window, held = now["rate_bytes_s"], now["window_bytes"], now["held_bytes"]
    click.echo("\nsecure channel (in: from the service engine)")
    print_facts(
        {
            "from": now["address"],
            "since": moment(time.time() - now["age_s"]),
            "peer": now["peer"],
            "key exchange": now["kex"],
            "strict": now["strict"],
            "host key": now["host_key"],
            "cipher in, out": f"{now['cipher_in']}, {now['cipher_out']}",
            "mac in, out": f"{now['mac_in']}, {now['mac_out']}",
            "rekeys": now["rekeys"],
            "channels": now["channels"],
            "rtt minimum": milliseconds(now["rtt_min_ms"]),
            "delivery rate": None if rate is None else f"{show_bytes(rate)}/s",
            "window": show_bytes(window),
            "held in memory": show_bytes(held),
        }
    )


@attrs.frozen
class _Names:
    """What operators call the objects of which a data plane reports by UUID."""

    pools: dict[str, str]
    services: dict[str, str]

    @classmethod
    def of(cls, client: Client) -> Self:
        """As the controller has them now."""
        return cls(*({row["uuid"]: row["name"] for row in all_of(client, kind)} for kind in NAMED))

    def put_into(self, row: dict[str, Any]) -> dict[str, Any]:
        """``row`` with names; what has none any more stays as it is."""
        known = {"pool": self.pools, "service": self.services}
        return {
            key: known[key].get(str(value).rpartition("/")[2], value) if key in known else value
            for key, value in row.items()
        }


def _print_runtime(now: dict[str, Any], names: _Names) -> None:
    click.echo()
    facts = {
        "data plane": now["data_plane"],
        "data plane up": now["data_plane_up"],
        "data plane since": moment(now["data_plane_started_at"]),
        "rtt p99": milliseconds(now.get("rtt_p99_ms")),
    }
    print_facts(facts)
    for title, rows in (("servers", now["health"]), ("virtual services", now["services"])):
        if rows:
            click.echo(f"\n{title}")
            columns = list(rows[0])
            shown = [names.put_into(row) for row in rows]
            print_table(
                [name.replace("_", " ") for name in columns],
                ([row.get(name) for name in columns] for row in shown),
                empty="",
            )
