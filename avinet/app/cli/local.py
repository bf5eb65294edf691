"""Commands that work on this machine's files rather than through the API: ``init``, ``doctor``, ``version``, ``demo``."""

import platform
from pathlib import Path

import click

from avinet.app.cli.backup import BACKUP, configuration_option
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import FAILED
from avinet.app.cli.output import print_facts, print_json, print_table
from avinet.app.cli.pin import fingerprint_of
from avinet.app.doctor import Examination, examine
from avinet.app.settings import load_controller_settings
from avinet.app.software import software_version
from avinet.trust.files import private_dir, read_private
from avinet.trust.locks import StateLock
from avinet.trust.node import ControllerIdentity

MAX_ENGINES = 50
"""Of a demo: each is a Python process of 60 MB and an Envoy of 70 MB."""
_FILE = click.Path(dir_okay=False, path_type=Path)


@examples(
    "avinet init --state /var/lib/avinet/controller --config /etc/avinet/controller.toml",
    "avinet --state ./c1 init",
)
@click.command(cls=Command)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@click.option("--config", type=_FILE, help="The controller's settings; defaults without it.")
@click.option(
    "--passphrase-file", type=_FILE, help="Wrap the root key with the passphrase in this 0600 file."
)
@place
def init(where: Place, state: Path | None, config: Path | None, passphrase_file: Path | None) -> None:
    """Make a controller's keys, certificates and first admin.

    It can be called again: what exists is kept, what is missing is made.
    """
    if state is not None:
        where.state = state
    from avinet.app.facts import facts_of  # here, since it brings all of the controller

    paths = where.local_state("avinet init")
    settings = load_controller_settings(config)
    passphrase = None if passphrase_file is None else read_private(passphrase_file).rstrip(b"\r\n")
    is_new = not paths.cluster.exists()
    # A controller that runs would go on with the list that it read, and another number of it would be on disk.
    lock = StateLock.take(private_dir(paths.state), "avinet controller")
    try:
        identity = ControllerIdentity.init(paths.state, facts_of(settings), passphrase)
    finally:
        lock.release()
    made = {
        "cluster": identity.cluster,
        "controller": identity.name,
        "addresses": list(settings.addresses),
        "state": str(paths.state),
        "root_ca": str(paths.root_pem),
        "root_fingerprint": fingerprint_of(identity.root.certificate),
        "admin_user": identity.admin.user,
        "admin_password_file": str(paths.admin_password),
    }
    if where.json:
        print_json(made | {"created": is_new})
        return
    print_facts({name.replace("_", " "): value for name, value in made.items()})
    if is_new:
        password = read_private(paths.admin_password).decode().strip()
        click.echo(f"\nThe admin's password, which that file keeps and nothing shows again: {password}")
    config_part = f" --config {config}" if config else ""
    click.echo(f"\nNext: twistd -n avicontroller --state {paths.state}{config_part}")


@examples("avinet doctor", "avinet doctor --se-state /var/lib/avinet/se")
@click.command(cls=Command)
@click.option("--config", type=_FILE, help="The controller's settings file.")
@click.option(
    "--se-state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Look at a service engine's state folder.",
)
@click.option("--se-config", type=_FILE, help="That service engine's settings file.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@place
def doctor(
    where: Place, config: Path | None, se_state: Path | None, se_config: Path | None, state: Path | None
) -> int:
    """Look at ports, certificates, clocks, versions, file modes and disk, and say what to do.

    It works with the controller down.  The exit status is 1 when something must be done.
    """
    if state is not None:
        where.state, where.api = state, None
    controller = where.state if where.api is None and (se_state is None or where.state.exists()) else None
    findings = examine(
        Examination(
            controller_state=controller, controller_config=config, se_state=se_state, se_config=se_config
        )
    )
    if where.json:
        rows = [
            {"check": found.check, "outcome": found.outcome, "found": found.found, "advice": found.advice}
            for found in findings
        ]
        print_json({"count": len(rows), "results": rows})
    else:
        print_table(
            ("check", "outcome", "found"), ((f.check, f.outcome, f.found) for f in findings), empty="Nothing."
        )
        advice = [f"{f.check}: {f.advice}" for f in findings if f.advice]
        if advice:
            click.echo("\nWhat to do:")
            for line in advice:
                click.echo(f"  {line}")
    return FAILED if any(found.outcome == "failed" for found in findings) else 0


@click.command(cls=Command)
@place
def version(where: Place) -> None:
    """The version of avinet on this machine."""
    if where.json:
        print_json({"version": software_version(), "python": platform.python_version()})
    else:
        click.echo(f"avinet {software_version()} (Python {platform.python_version()})")


@examples("avinet restored --state /var/lib/avinet/controller")
@click.command(cls=Command)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@configuration_option
@place
def restored(where: Place, state: Path | None, configuration_of: str) -> None:
    """Say that the state folder is an older copy of itself, such as a snapshot; `avinet restore` needs no such word.

    For a stopped controller, once after each such copy: service engines that have seen newer orders than the
    copy knows of obey it again.
    """
    from avinet.app.restore import (
        mark_restored,  # here, since it brings the store, which no other command wants
    )

    if state is not None:
        where.state = state
    accepted = configuration_of == BACKUP
    incarnation = mark_restored(where.local_state("avinet restored").state, accepted=accepted)
    if where.json:
        print_json({"incarnation": incarnation})
        return
    print_facts({"incarnation": "a new one, made by the next start" if incarnation is None else incarnation})
    click.echo("\nNext: start the controller (systemctl start avicontroller), then: avinet se list")
    click.echo("Delete again, at once, what was deleted since the backup; enrol anew what enrolled since.")
    if not accepted:
        click.echo("Engines with a newer configuration keep it until: avinet config accept-restored")


@examples(
    "avinet demo",
    "avinet demo --check",
    "avinet demo --engines 4 --dir /tmp/fleet",
    "avinet demo --json > up.json",
)
@click.command(cls=Command)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it lives; a fresh one if not given.",
)
@click.option(
    "--controllers",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="1, or 3 that form a cluster (needs etcd; as root each gets a network namespace of its own).",
)
@click.option("--engines", type=click.IntRange(1, MAX_ENGINES), default=2, show_default=True)
@click.option("--no-traffic", is_flag=True, help="Send no requests.")
@click.option("--no-restart", is_flag=True, help="Do not start again what dies.")
@click.option(
    "--check", is_flag=True, help="Verify it from outside, print what was verified, and exit 0 or 1."
)
@place
def demo(  # noqa: PLR0913, PLR0917 - one parameter an option
    where: Place,
    folder: Path | None,
    controllers: int,
    engines: int,
    no_traffic: bool,  # noqa: FBT001 - click passes options by name
    no_restart: bool,  # noqa: FBT001
    check: bool,  # noqa: FBT001
) -> int:
    """Run a controller, service engines and live traffic on this machine until Ctrl-C.

    With --json it prints one document once all is up (addresses, ports, folders, process ids, as demo.json in its
    folder), and everything else on stderr.
    """
    from avinet.app.demo.main import DemoOptions, run  # here, since it brings the reactor

    return run(
        DemoOptions(folder, controllers, engines, not no_traffic, not no_restart, check, as_json=where.json)
    )
