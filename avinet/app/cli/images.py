"""``avinet image``: what service engines boot from."""

from pathlib import Path

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.out_file import OutFile
from avinet.app.cli.output import moment, print_json, print_table

BASE = "image"


@click.group("image", cls=Group)
def images() -> None:
    """SE images: software, trust and an image key in one tar."""


@examples(
    "avinet image build --out avinet-se.tar                 # for any machine that has a token",
    "avinet image build --out se-9.tar --se se-9            # with that engine's token inside",
)
@images.command()
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@click.option("--group", help="For machines of this group only.")
@click.option("--se", "engine", help="For this engine only, with its one-time token inside.")
@place
def build(where: Place, out: Path, group: str | None, engine: str | None) -> None:
    """Build an SE image.  The file holds the image key: it is 0600, keep it so."""
    wish = {name: value for name, value in {"group": group, "se": engine}.items() if value is not None}
    client = where.client()
    with OutFile.beside(out) as file:
        headers = client.download(path_to(BASE), wish, file.file)
        size = file.keep()
    image = headers.get("x-avinet-image", "")
    if where.json:
        print_json({"image": image, "file": str(out), "bytes": size})
    else:
        click.echo(f"Image {image} is in {out} ({size} bytes).")


@images.command("list")
@place
def list_all(where: Place) -> None:
    """Every image whose key the controllers know."""
    answer = where.client().get(path_to(BASE))
    if where.json:
        print_json(answer)
        return
    print_table(
        ("image", "state", "group", "for", "software", "created", "expires", "key"),
        (
            (
                row["uuid"],
                row["state"],
                row["group"] or "any",
                row.get("se") or "any machine",
                row["software"],
                moment(row["created_at"]),
                moment(row["expires_at"]),
                row["fingerprint"],
            )
            for row in answer["results"]
        ),
        empty="There is no image; make one: avinet image build --out FILE",
    )


@images.command()
@click.argument("image")
@yes_option
@place
def revoke(where: Place, image: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """Let no machine enrol from IMAGE any more; those that did are not touched."""
    ask(f"Revoke image {image}? No machine can enrol from it any more.", yes=yes)
    where.client().delete(path_to(BASE, image))
    if where.json:
        print_json({"revoked": image})
    else:
        click.echo(f"Image {image} was revoked.")
