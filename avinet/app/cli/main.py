"""The ``avinet`` program: global options, and the commands by name.

Exit status: 0 done, 1 failed, 2 invalid, 3 not found, 4 conflict, 5 unavailable, 6 denied, 7 timed out; that of the
remote command for ``se exec`` and ``se ssh``, or 124 and 255 as timeout(1) and ssh(1) have them.
"""

import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from avinet.app.cli.audit import audit
from avinet.app.cli.backup import backup, restore
from avinet.app.cli.client import path_to
from avinet.app.cli.cluster import cluster
from avinet.app.cli.config import config
from avinet.app.cli.context import DEFAULT_STATE, Command, Place, Root, place
from avinet.app.cli.engines import engines
from avinet.app.cli.events import events
from avinet.app.cli.images import images
from avinet.app.cli.local import demo, doctor, init, restored, version
from avinet.app.cli.login import completion, login, logout
from avinet.app.cli.logs import logs
from avinet.app.cli.output import moment, print_facts, print_json
from avinet.app.cli.services import pools, services
from avinet.app.cli.users import access_tokens, users
from avinet.app.software import software_version
from avinet.rest.elsewhere import SHOWN_STALE_S
from avinet.units import KIB, show_bytes, show_duration

EPILOG = """\b
A first tour:
  avinet init --state ./c1
  twistd -n avicontroller --state ./c1   # ports 22, 443 and 8443; others
                                         # by --config: etc/controller.toml
  export AVINET_STATE=./c1               # in another terminal
  avinet se create --name se-1 --cloud local
  avinet config apply -f etc/examples/web.yaml
  avinet se list
  avinet vs stats
  avinet events --follow

\b
From another machine:
  avinet login https://ctl.example     # once
  avinet se list

\b
Exit status: 0 done, 1 failed, 2 invalid, 3 not found, 4 conflict,
5 unavailable, 6 denied, 7 timed out, 130 interrupted. `se exec` and
`se ssh`: the command's own; 124 past --timeout, 255 no connection.

\b
With --json an error is on stderr: {"error": {"reason": WORD, "detail":
SENTENCE, ...}}, with its facts, as "problems" of a configuration.

\b
Environment: AVINET_STATE, AVINET_API, AVINET_CA and AVINET_USER as the
options; AVINET_PASSWORD is the password where there is no --password-file."""


@click.group(cls=Root, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_STATE,
    envvar="AVINET_STATE",
    show_default=True,
    show_envvar=True,
    help="The controller's state folder on this machine; needs no login.",
)
@click.option(
    "--api",
    envvar="AVINET_API",
    show_envvar=True,
    metavar="URL",
    help="Another machine's API: https://host[:port].",
)
@click.option(
    "--ca",
    envvar="AVINET_CA",
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --api: the root certificate to trust (STATE/trust/root.pem).",
)
@click.option("--user", envvar="AVINET_USER", show_envvar=True, help="With --api: who logs in.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --api: a 0600 file with the password; without it, AVINET_PASSWORD has it.",
)
@click.version_option(software_version(), prog_name="avinet")
@click.pass_context
def cli(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: click.Context,
    state: Path,
    api: str | None,
    ca: Path | None,
    user: str | None,
    password_file: Path | None,
) -> None:
    """Manage a fleet of load balancers: its service engines, their images and their configuration."""
    where = context.ensure_object(Place)
    where.state, where.api, where.ca = state, api, ca
    where.state_given = context.get_parameter_source("state") is not ParameterSource.DEFAULT
    where.user, where.password_file = user, password_file


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


@cli.command(cls=Command)
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


for _command in (
    access_tokens,
    audit,
    backup,
    cluster,
    completion,
    config,
    demo,
    doctor,
    engines,
    events,
    images,
    init,
    login,
    logout,
    logs,
    pools,
    restore,
    restored,
    services,
    users,
    version,
):
    cli.add_command(_command)


def main() -> None:
    """The console script."""
    cli(prog_name="avinet")
