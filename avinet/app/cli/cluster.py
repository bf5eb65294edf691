"""``avinet cluster``: the controllers themselves."""

from pathlib import Path
from typing import Any

import click
import msgspec

from avinet.app.cli.asking import ask, at_terminal, yes_option
from avinet.app.cli.client import path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import FileError
from avinet.app.cli.out_file import OutFile
from avinet.app.cli.output import milliseconds, moment, print_facts, print_json, print_table
from avinet.app.cli.removal_logs import fate_of
from avinet.app.settings import load_controller_settings
from avinet.trust.bundle import read_bundle
from avinet.trust.files import private_dir
from avinet.trust.locks import StateLock

BASE = "cluster"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("cluster", cls=Group)
def cluster() -> None:
    """The controllers of the cluster: who there are, who joins, who leaves."""


@examples(
    "avinet cluster status", "avinet cluster status --json | jq -r '.members[] | .name + \" \" + .role'"
)
@cluster.command()
@place
def status(where: Place) -> None:
    """Every controller, its role as seen from the one that answers, and whether changes can be made."""
    answer = where.client().get(path_to(BASE))
    if where.json:
        print_json(answer)
        return
    print_facts(
        {
            "cluster": answer["cluster"],
            "asked": answer["name"],
            "quorum": "yes" if answer["quorum"] else "no: nothing can be changed now",
            "membership list": answer["membership"],
            "root key": answer["root_holder"] or "offline: nobody can join or leave",
        }
    )
    click.echo()
    print_table(
        ("controller", "role", "software", "links", "rtt", "addresses", "ssh", "registration", "why"),
        (
            (
                row["name"],
                row["role"],
                row["software"] or "-",
                _links(row),
                milliseconds(row["rtt_ms"]),
                ", ".join(row["addresses"]),
                row["ssh_port"],
                row["registration_port"],
                row["why"] or "-",
            )
            for row in answer["members"]
        ),
        empty="There is none.",
    )
    _warn(answer)


def _links(row: Any) -> str:
    """Which connections are up, from the controller that answers, and how its state engine is reached, if not by them."""
    up = [link["lane"] for link in row.get("links", ()) if link["up"]]
    odd = {port["how"] for port in row.get("ports", ()) if port["how"] != "forwarded"}
    return ", ".join((*up, *sorted(odd))) or "-"


@examples(
    "avinet cluster bundle --out c2.bundle",
    "scp c2.bundle ctl2:    # it is a secret; then there: avinet cluster join c2.bundle --state DIR",
)
@cluster.command()
@click.option("--out", required=True, type=_FILE, help="The file to write, 0600.")
@place
def bundle(where: Place, out: Path) -> None:
    """Make a bundle with which one machine can become a controller, within 10 minutes.

    It holds a one-time token: carry it to that machine as you would carry a key.
    """
    _make_bundle(where, out, {})


@examples("avinet cluster replace c2 --out c2.bundle")
@cluster.command()
@click.argument("name")
@click.option("--out", required=True, type=_FILE, help="The file to write, 0600.")
@yes_option
@place
def replace(where: Place, name: str, out: Path, yes: bool) -> None:  # noqa: FBT001 - click's
    """Make a bundle with which a machine takes the place of controller NAME, within 10 minutes.

    NAME is removed when that machine joins, under NAME or another name. Its request logs go with it but for those of which others
    have copies: how many that are is told before.
    """
    logs = fate_of(where.client(), name)
    for line in logs.before() if logs is not None else ():
        click.echo(line, err=True)
    ask(f"Give the place of controller {name} to a machine that has the bundle?", yes=yes)
    _make_bundle(where, out, {"replaces": name})


@examples(
    "avinet cluster join c2.bundle --state /var/lib/avinet/controller --config /etc/avinet/controller.toml"
)
@cluster.command()
@click.argument("file", metavar="BUNDLE", type=_FILE)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@click.option("--config", type=_FILE, help="The new controller's settings; defaults without it.")
@place
def join(where: Place, file: Path, state: Path | None, config: Path | None) -> None:
    """Make this machine a controller of the cluster that BUNDLE is from.

    The state folder must be new. Cut off, the same command goes on where it was.
    """
    from avinet.app.join import join_of  # here, since it brings all of the controller

    if state is not None:
        where.state = state
    paths = where.local_state("avinet cluster join")
    settings = load_controller_settings(config)
    read = read_bundle(file)
    lock = StateLock.take(private_dir(paths.state), "avinet controller")
    try:
        listed = join_of(paths, read, settings).run()
    finally:
        lock.release()
    made = {
        "cluster": listed.cluster,
        "controller": settings.name,
        "controllers": [controller.name for controller in listed.controllers],
        "membership": listed.number,
        "state": str(paths.state),
    }
    if where.json:
        print_json(made)
        return
    print_facts(made)
    config_part = f" --config {config}" if config else ""
    click.echo(f"\nNext: delete {file}; then: twistd -n avicontroller --state {paths.state}{config_part}")


@examples("avinet cluster remove c2")
@cluster.command()
@click.argument("name")
@yes_option
@place
def remove(where: Place, name: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """Remove controller NAME: no service engine and no other controller believes it any more.

    It may be running or lost. Its state folder is of no use afterwards; to come back it joins anew. Its request logs go with it
    but for those of which others have copies: how many that are is told before and after.
    """
    client = where.client()
    logs = fate_of(client, name) if yes or at_terminal() else None
    if not yes:
        for line in logs.before() if logs is not None else ():
            click.echo(line, err=True)
    ask(
        f"Remove controller {name}? Its certificate is revoked for good.",
        yes=yes,
        needs_yes="avinet cluster remove",
    )
    answer = client.delete(path_to(BASE, "controller", name))
    if where.json:
        print_json(answer if logs is None else answer | {"request_logs": logs.document()})
        return
    click.echo(f"Controller {name} was removed by membership list {answer['membership']}.")
    for line in logs.after() if logs is not None else ():
        click.echo(line)
    _warn(answer)


def _make_bundle(where: Place, out: Path, wish: dict[str, Any]) -> None:
    with OutFile.beside(out) as file:
        made = where.client().post(path_to(BASE, "bundle"), wish)
        try:
            file.file.write(msgspec.json.encode(made))
            file.keep()
        except OSError as why:
            raise FileError(what="write", path=str(out), why=why.strerror or str(why)) from why
    if where.json:
        print_json({"file": str(out), "expires_at": made["expires_at"], "replaces": made.get("replaces", "")})
        return
    click.echo(
        f"The bundle is in {out}, for one machine, until {moment(made['expires_at'])}. It is a secret."
    )
    click.echo(f"There: avinet cluster join {out.name} --state DIR --config FILE")


def _warn(answer: dict[str, Any]) -> None:
    for warning in answer.get("warnings", ()):
        click.echo(f"Note: {warning}", err=True)
