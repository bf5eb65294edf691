"""``avinet vs`` and ``avinet pool``: what operators ask of one virtual service or pool."""

import click

from avinet.app.cli.context import Group
from avinet.app.cli.placed import placed_list, placed_show
from avinet.app.cli.traffic import pool_servers, pool_stats, service_stats


@click.group("vs", cls=Group)
def services() -> None:
    """Virtual services: where they are, how they are, and what their traffic looks like."""


@click.group("pool", cls=Group)
def pools() -> None:
    """Pools: how their servers are and what their traffic looks like."""


services.add_command(placed_list)
services.add_command(placed_show)
services.add_command(service_stats)
pools.add_command(pool_stats)
pools.add_command(pool_servers)
