"""``avinet logs query``: counts, the most frequent, figures by group, percentiles, histograms, and records."""

import re
from typing import Any
from urllib.parse import urlencode

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import RefusedError, UsageError
from avinet.app.cli.logs_answers import print_missing, print_page, print_rows
from avinet.app.cli.output import print_json
from avinet.errors import AvinetError

MAX_URL_CHARS = 4_000
"""A longer question goes in a body: what stands between may take no longer URL."""
MAX_URL_FILTER_CHARS = 1_000
"""The API's own bound on a filter in a URL."""


@examples(
    "avinet logs query 'status>=500 since 1h'                      # the newest records",
    "avinet logs query 'host=x since 1h' --count",
    "avinet logs query 'vs=web since 1d' --top path --limit 20",
    "avinet logs query 'since 1h' --percentiles duration_ms --by vs",
    "avinet logs query 'vs=web since 1h' --percentiles duration_ms --histogram 1m",
    "avinet logs query 'client in 10.0.0.0/8' --histogram 1m",
    "avinet logs query --group-by vs,status --figures 'count,sum(bytes_out),p99(duration_ms)'",
)
@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option("--count", is_flag=True, help="How many.")
@click.option(
    "--top", metavar="FIELDS", help="The most frequent values of a field, or of several: path,status."
)
@click.option("--group-by", metavar="FIELDS", help="Figures for each value of a field, or of several.")
@click.option(
    "--figures",
    metavar="LIST",
    help="With --group-by: count,sum(FIELD),avg(FIELD),p99(FIELD),distinct(FIELD).",
)
@click.option("--percentiles", metavar="FIELD", help="Of duration_ms, say; with --histogram over time.")
@click.option("--quantiles", metavar="LIST", help="With --percentiles: 50,99,99.9.")
@click.option("--histogram", metavar="INTERVAL", help="How many in each interval: 10s, 1m, 1h.")
@click.option(
    "--by", metavar="FIELDS", help="With --percentiles or --histogram: for each value of these fields."
)
@click.option("--limit", type=int, metavar="N", help="At most so many rows or records.")
@click.option("--oldest-first", is_flag=True, help="Records in the order in which they began.")
@click.option("--cursor", metavar="WORD", help="The next page of records: what the page before said.")
@place
def query(where: Place, /, words: tuple[str, ...], **options: Any) -> None:
    """Ask the records that FILTER leaves, such as: status>=500 path~^/api client in 10.0.0.0/8 since 1h.

    A filter is comparisons (= != < <= > >= ~ !~ in startswith endswith contains, has FIELD), and, or, not, brackets, and
    since and until with a time. Without any other option the records themselves are shown, the newest first.
    """
    text = " ".join(words)
    asked = {name: value for name, value in options.items() if value is not None and value is not False}
    records = {"oldest_first", "cursor"}
    shaped = set(asked) - records - {"limit"}
    if shaped and shaped != set(asked) - {"limit"}:
        raise UsageError(what="--oldest-first and --cursor go with records, not with figures")
    client, path = where.client(), path_to("logs", "query" if shaped else "records")
    in_url = {"q": text, **{name: "true" if value is True else value for name, value in asked.items()}}
    try:
        if len(text) > MAX_URL_FILTER_CHARS or len(urlencode(in_url)) > MAX_URL_CHARS:
            answer = client.post(path, {"q": text, **asked})
        else:
            answer = client.get(path, in_url)
    except RefusedError as why:
        raise _in_options(why) from why
    if where.json:
        print_json(answer)
        return
    if "count" in answer:
        click.echo(answer["count"])
    elif shaped:
        print_rows(answer, asked.get("histogram"), asked.get("percentiles", ""))
    else:
        print_page(answer)
    print_missing(answer)


def _in_options(why: RefusedError) -> AvinetError:
    """What the API says of its parameters, in the words of the command line."""
    where, what = (str(why.facts.get(name, "")) for name in ("where", "what"))
    if why.said_reason != "invalid-shape" or where not in _OPTIONS:
        return why
    if " with " in what:
        what = re.sub(rf"\b({'|'.join(_SHAPES)})\b", lambda found: _option(found[0]), what)
    return UsageError(what=f"{_option(where)}: {what}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


_SHAPES = ("count", "top", "group_by", "percentiles", "histogram")
_OPTIONS = frozenset({*_SHAPES, "figures", "quantiles", "by", "limit", "cursor"})
