"""``avinet logs status``: what is in the store, what is still on the service engines, and what was lost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, place
from avinet.app.cli.output import instant, print_facts, print_json, print_table, text_of
from avinet.model.logs import DropReason
from avinet.units import show_bytes


@click.command(cls=Command)
@place
def status(where: Place) -> None:
    """What is where: the store of each controller, the spool of each service engine, and every drop with its reason."""
    answer = where.client().get(path_to("logs", "status"))
    if where.json:
        print_json(answer)
        return
    rows = answer.get("controllers") or ()
    if rows:
        _print_controllers(rows)
    else:
        _print_store(answer["store"])
    click.echo()
    print_table(
        (
            "service engine",
            "connected",
            "significant",
            "full",
            "being written",
            "oldest",
            "of its limit",
            "dropped",
        ),
        (
            (
                row["name"],
                row["connected"],
                _amount(row["significant"]),
                _amount(row["full"]),
                _growing(row),
                instant(row.get("oldest")),
                _share(row),
                row["dropped_records"],
            )
            for row in answer["service_engines"]
        ),
        empty="No service engine has told of its logs.",
    )
    if answer["drops"]:
        click.echo()
        print_table(
            ("lost at", "reason", "class", "service", "from", "to", "records", "bytes"),
            (
                (
                    row["se"] or "several",
                    row["reason"],
                    "any" if row["reason"] == DropReason.UNWRITTEN else row["class"],
                    row.get("vs") or "any",
                    instant(row.get("since")),
                    instant(row.get("until")),
                    _number(row),
                    row.get("bytes"),
                )
                for row in answer["drops"]
            ),
            empty="",
        )


def _print_store(store: Mapping[str, Any]) -> None:
    print_facts(
        {
            "store": _records(store),
            "from": instant(store.get("since")),
            "to": instant(store.get("until")),
            "waiting": f"{_waiting(store)}, to be stored",
            "not taken in": store.get("trouble") or None,
            "mended": _mended(store),
        }
    )


def _print_controllers(rows: Sequence[Mapping[str, Any]]) -> None:
    """A row each; one that has not answered has a dash in every place but the last."""
    columns = ("store", "from", "to", "waiting to be stored", "without a copy", "copies of others")
    table = []
    for row in rows:
        store = row.get("store") or {}
        told = "; ".join(filter(None, (row.get("why"), store.get("trouble"), _mended(store))))
        table.append((row["controller"], *(_said(row, store) if store else ("",) * len(columns)), told))
    print_table(("controller", *columns, "why"), table, empty="")


def _said(row: Mapping[str, Any], store: Mapping[str, Any]) -> tuple[str, ...]:
    uncopied = f"{row.get('uncopied', 0)} records"
    span = (instant(store["since"]), instant(store["until"]))
    return (_records(store), *span, _waiting(store), uncopied, _copies(row))


def _copies(row: Mapping[str, Any]) -> str:
    """``1200 records of c2, 5 of c3``."""
    of: Counter[str] = Counter()
    for one in row.get("copies", ()):
        of[one["controller"]] += one["records"]
    return ", ".join(
        f"{records} records of {text_of(name)}" for name, records in sorted(of.items()) if records
    )


def _records(store: Mapping[str, Any]) -> str:
    return f"{store['records']} records, {show_bytes(store['bytes'])}, in {store['files']} files"


def _waiting(store: Mapping[str, Any]) -> str:
    return f"{store['waiting_segments']} segments, {show_bytes(store['waiting_bytes'])} of NDJSON"


def _mended(store: Mapping[str, Any]) -> str | None:
    return f"{instant(store['mended_at'])}: {store['mended']}" if store.get("mended") else None


def _number(row: Mapping[str, Any]) -> str:
    """What the data plane could not write it has not counted one by one."""
    if not row["records"]:
        return "not counted"
    return f"about {row['records']}" if row["reason"] == DropReason.UNWRITTEN else str(row["records"])


def _amount(kept: Mapping[str, Any]) -> str:
    return f"{kept['records']} records, {show_bytes(kept['bytes'])}" if kept["segments"] else "-"


def _growing(row: Mapping[str, Any]) -> str:
    """What is in no segment yet."""
    return f"{show_bytes(row['growing_bytes'])} of NDJSON" if row.get("growing_bytes") else "-"


def _share(row: Mapping[str, Any]) -> str:
    limit = row.get("limit_bytes")
    kept = row["significant"]["bytes"] + row["full"]["bytes"]
    if not limit:
        return "-"
    percent = 100 * kept / limit
    return f"{'below 0.1' if 0 < percent < 0.1 else f'{percent:.3g}'} % of {show_bytes(limit)}"
