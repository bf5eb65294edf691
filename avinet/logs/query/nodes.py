"""What engines say differently, as nodes of our own in a sqlglot tree: each renderer replaces all of them.

Values of operators are nodes, too (``Bound``): a tree has no other place for them, and a renderer makes a parameter of each,
so no value can become SQL.
"""

from sqlglot import exp


class Bound(exp.Expression):
    """A value to be bound.  ``this``: text, a number, or a tuple of numbers."""

    arg_types = {"this": True}  # noqa: RUF012 - as sqlglot has it


class Instant(exp.Expression):
    """A time, to be bound.  ``this``: microseconds of UNIX time."""

    arg_types = {"this": True}  # noqa: RUF012


class Micros(exp.Expression):
    """A time as microseconds of UNIX time.  ``this``: a column."""

    arg_types = {"this": True}  # noqa: RUF012


class Milliseconds(exp.Expression):
    """Whole microseconds as milliseconds, a number with a point.  ``this``: a column."""

    arg_types = {"this": True}  # noqa: RUF012


class TimeBucket(exp.Expression):
    """Where the interval that a time is in begins, as microseconds.  ``this``: a column; ``interval_us``: its length."""

    arg_types = {"this": True, "interval_us": True}  # noqa: RUF012


class Quantiles(exp.Expression):
    """A list of quantiles.  ``this``: a column; ``quantiles``: 0 to 1; ``approximate``: in bounded memory."""

    arg_types = {"this": True, "quantiles": True, "approximate": True}  # noqa: RUF012


class Distinct(exp.Expression):
    """How many different values.  ``this``: a column; ``approximate``: in bounded memory."""

    arg_types = {"this": True, "approximate": True}  # noqa: RUF012


class Regex(exp.Expression):
    """Whether RE2 finds an expression in a text.  ``this``: a column; ``expression``: bound."""

    arg_types = {"this": True, "expression": True}  # noqa: RUF012


class Contains(exp.Expression):
    """Whether a text is part of another.  ``this``: a column; ``expression``: bound."""

    arg_types = {"this": True, "expression": True}  # noqa: RUF012


class InNetwork(exp.Expression):
    """Whether the client's address is in a network.  ``this``: its text, ``10.0.0.0/8``."""

    arg_types = {"this": True}  # noqa: RUF012


class Fingerprint(exp.Expression):
    """A number made of all fields of a record: the same at each asking, another one for another record."""

    arg_types = {}  # noqa: RUF012


OWN = (
    Bound,
    Instant,
    Micros,
    Milliseconds,
    TimeBucket,
    Quantiles,
    Distinct,
    Regex,
    Contains,
    InNetwork,
    Fingerprint,
)
