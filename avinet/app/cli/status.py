"""``avinet status``: the controller at a glance."""

import time
from typing import Any

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, place
from avinet.app.cli.output import moment, print_facts, print_json
from avinet.rest.elsewhere import SHOWN_STALE_S
from avinet.units import KIB, show_bytes, show_duration


def _under_load(answer: dict[str, Any]) -> dict[str, str]:
    """What a controller of an older release does not tell."""
    shown: dict[str, str] = {}
    if reactor := answer.get("reactor"):
        shown["reactor blocked"] = (
            f"{reactor['over_50_ms']} times over 50 ms; longest {reactor['longest_minute_ms']:g} ms in the last "
            f"minute, {reactor['longest_hour_ms']:g} ms in the last hour; p99 {reactor['p99_ms']} ms"
        )
    if logins := answer.get("logins"):
        shown["logins"] = (
            f"{logins['in_progress']} in progress, {logins['turned_away']} told to come back later"
        )
    return shown


def _store(store: dict[str, Any]) -> str:
    """Its engine, and what it lacks."""
    shown: list[str] = [store.get("engine", "")]
    if store.get("version"):
        shown[0] += f" {store['version']}"
        shown.append("leads" if store["is_leader"] else "follows" if store["has_leader"] else "no leader")
        quota = f" of {show_bytes(store['quota_bytes'])}" if store["quota_bytes"] else ""
        shown.append(f"{show_bytes(store['db_bytes'])}{quota}")
    if not store.get("well", True):
        shown.append(f"not well: {store['why']}")
    return ", ".join(shown)


def _lead(lead: dict[str, Any]) -> dict[str, str]:
    """Who leads, and how old what is shown may be; nothing where a controller is alone."""
    leader = lead.get("leader")
    if leader and not lead.get("term"):
        return {}
    here = " (this controller)" if lead.get("role") == "leader" else ""
    said = (
        f"{leader}{here}, term {lead['term']}" if leader else "nobody: no quorum, nothing can be changed now"
    )
    stale_s = lead.get("stale_s", 0.0)
    return {
        "leader": said + (f"; what is shown may be {stale_s:.0f} s old" if stale_s >= SHOWN_STALE_S else "")
    }


@click.command(cls=Command)
@place
def status(where: Place) -> None:
    """The controller at a glance."""
    answer = where.client().get(path_to("status"))
    if where.json:
        print_json(answer)
        return
    engines = answer["service_engines"]
    late = [f"{one['name']} ({one.get('why') or one['stand']})" for one in answer.get("stragglers", ())]
    print_facts(
        {
            "cluster": answer["cluster"],
            "controller": answer["name"],
            "software": answer["software"],
            "up for": show_duration(max(0.0, time.time() - answer["started_at"])),
            "membership list": answer["membership"],
            **_lead(answer.get("lead") or {"leader": answer["name"]}),
            "configuration": f"version {answer['config_version']}",
            "service engines": f"{engines['total']}: {engines['up']} up, {engines['in_sync']} in sync",
            **_restored(answer),
            "stragglers": late,
            "store": _store(answer.get("store") or {}),
            "memory": show_bytes(answer["memory_kib"] * KIB),
            **_under_load(answer),
        }
    )


def _restored(answer: dict[str, Any]) -> dict[str, Any]:
    """After a restore, until its configuration is accepted."""
    restored = answer.get("restored")
    if not restored:
        return {}
    keep = answer["service_engines"].get("restored_behind", 0)
    return {
        "restored": f"{moment(restored['at'])}, from a backup of version {restored['version']}; {keep} service engines "
        "keep newer configurations until: avinet config accept-restored"
    }
