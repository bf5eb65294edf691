"""``avinet user`` and ``avinet access-token``: who may do what, and what programs show instead of a password."""

import re
from pathlib import Path

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.output import moment, print_facts, print_json, print_table
from avinet.app.cli.passwords import new_password, password_of, password_option
from avinet.units import DAY_S, HOUR_S

ROLES = click.Choice(["read-only", "operator", "admin"])
USER = "user"
TOKEN = "accesstoken"  # noqa: S105 - a path's word
_LIFE = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
MIN_LIFE_S, MAX_LIFE_S = 60.0, 366.0 * DAY_S
"""As the API has them; said here in the words of the option."""
_UNIT_S = {"s": 1, "m": 60, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}


@click.group("user", cls=Group)
def users() -> None:
    """Operators: their roles and passwords."""


@examples("avinet user create olga --role operator", "pwgen 20 1 | avinet user create robot --role read-only")
@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, default="read-only", show_default=True)
@password_option
@place
def create(where: Place, name: str, role: str, file: Path | None) -> None:
    """Make user NAME."""
    made = where.client().post(
        path_to(USER), {"name": name, "role": role, "password": new_password(file, name)}
    )
    if where.json:
        print_json(made)
    else:
        click.echo(f"User {name} was made, with the role {role}.")


@users.command("list")
@place
def list_users(where: Place) -> None:
    """Every user."""
    answer = where.client().get(path_to(USER))
    if where.json:
        print_json(answer)
        return
    print_table(
        ("name", "role", "enabled", "sessions", "tokens", "created", "password set"),
        (
            (
                row["name"],
                row["role"],
                row["enabled"],
                row["sessions"],
                row["tokens"],
                moment(row["created_at"]),
                moment(row["password_at"]),
            )
            for row in answer["results"]
        ),
        empty="There is no user.",
    )


@examples("avinet user password olga", "avinet user password admin --new-password-file new.txt")
@users.command()
@click.argument("name")
@password_option
@place
def password(where: Place, name: str, file: Path | None) -> None:
    """Set NAME's password; its sessions end."""
    client = where.client()
    wish = {}
    if client.get(path_to("whoami"))["user"] == name:
        wish["current"] = password_of(name)
    wish["password"] = new_password(file, name)
    _tell(where, client.put(path_to(USER, name, "password"), wish), f"The password of {name} was set.")


@users.command()
@click.argument("name")
@click.argument("new_role", metavar="ROLE", type=ROLES)
@place
def role(where: Place, name: str, new_role: str) -> None:
    """Give NAME another role: read-only, operator or admin."""
    made = where.client().put(path_to(USER, name, "role"), {"role": new_role})
    _tell(where, made, f"User {name} has the role {new_role} now.")


@users.command()
@click.argument("name")
@place
def disable(where: Place, name: str) -> None:
    """Let NAME log in no more; its sessions end and its access tokens rest."""
    _tell(where, where.client().post(path_to(USER, name, "disable")), f"User {name} is disabled.")


@users.command()
@click.argument("name")
@place
def enable(where: Place, name: str) -> None:
    """Let NAME log in again."""
    _tell(where, where.client().post(path_to(USER, name, "enable")), f"User {name} is enabled.")


@users.command()
@click.argument("name")
@yes_option
@place
def delete(where: Place, name: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """Delete NAME, with all of its access tokens."""
    ask(f"Delete user {name} and its access tokens?", yes=yes)
    where.client().delete(path_to(USER, name))
    _tell(where, {"deleted": name}, f"User {name} was deleted.")


def _tell(where: Place, answer: object, sentence: str) -> None:
    if where.json:
        print_json(answer)
    else:
        click.echo(sentence)


@click.group("access-token", cls=Group)
def access_tokens() -> None:
    """Access tokens, which programs show instead of a password."""


@examples(
    "avinet access-token create --name backup --role read-only --expires 30d",
    'curl --cacert root.pem -H "Authorization: Bearer $(cat token)" https://ctl/api/pool',
)
@access_tokens.command("create")
@click.option("--name", required=True, help="What it is for.")
@click.option("--role", "wished", type=ROLES, help="At most that of its user, which it is without this.")
@click.option(
    "--expires", metavar="TIME", help="After so long: 12h, 30d, 8w; 90d unless given, 366d at most."
)
@click.option("--user", "user", help="Whose it is (as admin); one's own unless given.")
@place
def create_token(where: Place, name: str, wished: str | None, expires: str | None, user: str | None) -> None:
    """Make an access token and print it, this once."""
    wish: dict[str, object] = {"name": name, "role": wished, "user": user}
    if expires is not None:
        wish["life_s"] = seconds_of(expires)
    made = where.client().post(
        path_to(TOKEN), {key: value for key, value in wish.items() if value is not None}
    )
    if where.json:
        print_json(made)
        return
    row = made["token"]
    print_facts(
        {"id": row["uuid"], "user": row["user"], "role": row["role"], "until": moment(row["expires_at"])}
    )
    click.echo(f"\nThe token, shown only now: {made['secret']}")


@access_tokens.command("list")
@place
def list_tokens(where: Place) -> None:
    """One's own access tokens; as admin everybody's. Never their secrets."""
    answer = where.client().get(path_to(TOKEN))
    if where.json:
        print_json(answer)
        return
    print_table(
        ("id", "name", "user", "role", "state", "begins with", "created", "expires", "last used"),
        (
            (
                row["uuid"],
                row["name"],
                row["user"],
                row["role"],
                row["state"],
                row["prefix"],
                moment(row["created_at"]),
                moment(row["expires_at"]),
                moment(row["used_at"]),
            )
            for row in answer["results"]
        ),
        empty="There is no access token; make one: avinet access-token create",
    )


@access_tokens.command()
@click.argument("token")
@yes_option
@place
def revoke(where: Place, token: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """End TOKEN: its id, or one's own by its name."""
    ask(f"Revoke access token {token}? What uses it is refused from now on.", yes=yes)
    where.client().delete(path_to(TOKEN, token))
    _tell(where, {"revoked": token}, f"Access token {token} was revoked.")


def seconds_of(text: str) -> float:
    """How long a token lives: ``30d`` and its like in seconds."""
    match = _LIFE.fullmatch(text.strip())
    if match is None:
        raise UsageError(what=f"{text} is no time such as 90m, 12h, 30d or 8w")
    life_s = float(int(match[1]) * _UNIT_S[match[2]])
    if not MIN_LIFE_S <= life_s <= MAX_LIFE_S:
        raise UsageError(what=f"a token lives from 60s to 366d, not {text}")
    return life_s
