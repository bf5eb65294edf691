"""The ``avinet`` program: global options, and the commands by name.

Exit status: 0 done, 1 failed, 2 invalid, 3 not found, 4 conflict, 5 unavailable, 6 denied, 7 timed out; that of the
remote command for ``se exec`` and ``se ssh``, or 124 and 255 as timeout(1) and ssh(1) have them.
"""

from pathlib import Path

import click
from click.core import ParameterSource

from avinet.app.cli.context import DEFAULT_STATE, Place, Root
from avinet.app.software import software_version

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


HERE = "avinet.app.cli."
COMMANDS = {
    "access-token": HERE + "users:access_tokens",
    "audit": HERE + "audit:audit",
    "backup": HERE + "backup:backup",
    "cluster": HERE + "cluster:cluster",
    "completion": HERE + "login:completion",
    "config": HERE + "config:config",
    "demo": HERE + "local:demo",
    "doctor": HERE + "local:doctor",
    "events": HERE + "events:events",
    "image": HERE + "images:images",
    "init": HERE + "local:init",
    "login": HERE + "login:login",
    "logout": HERE + "login:logout",
    "logs": HERE + "logs:logs",
    "pool": HERE + "services:pools",
    "restore": HERE + "backup:restore",
    "restored": HERE + "local:restored",
    "se": HERE + "engines:engines",
    "status": HERE + "status:status",
    "user": HERE + "users:users",
    "version": HERE + "local:version",
    "vs": HERE + "services:services",
}


@click.group(
    cls=Root, later=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
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


def main() -> None:
    """The console script."""
    cli(prog_name="avinet")
