"""``avinet logs``: request logs, from where they lie to what they say."""

import click

from avinet.app.cli.context import Group
from avinet.app.cli.logs_pulls import cancel, pause, pull, pulls, resume
from avinet.app.cli.logs_query import query
from avinet.app.cli.logs_records import export, tail
from avinet.app.cli.logs_status import status


@click.group("logs", cls=Group)
def logs() -> None:
    """Request logs: ask them, follow them, and fetch from the service engines what is not here yet."""


for _command in (query, tail, pull, pulls, pause, resume, cancel, export, status):
    logs.add_command(_command)
