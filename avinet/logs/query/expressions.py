"""What a record must be like, as frozen expressions: what the parser makes, and what every engine's SQL is made from.

They carry values, never text of a query language, and go through msgpack as they are.  Their meaning has two values: a
comparison with what is not known is false, and its negation true, whatever an engine's own logic says.
"""

import enum

import msgspec

Value = str | int | float


class Op(enum.StrEnum):
    """How a field and one value are compared."""

    EQUAL = "="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    MATCHES = "~"
    """The value is a regular expression of RE2, found anywhere."""
    STARTS = "startswith"
    ENDS = "endswith"
    CONTAINS = "contains"


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """A field and a value."""

    field: str
    op: Op
    value: Value


class OneOf(msgspec.Struct, frozen=True, tag="one-of"):
    """A field is one of several values."""

    field: str
    values: tuple[Value, ...]


class Between(msgspec.Struct, frozen=True, tag="between"):
    """A whole number is from ``low`` to ``high``, both included: a class of statuses."""

    field: str
    low: int
    high: int


class Within(msgspec.Struct, frozen=True, tag="within"):
    """An address is in one of these networks, ``10.0.0.0/8`` or ``2001:db8::/32``, each in its one spelling."""

    field: str
    networks: tuple[str, ...]


class Has(msgspec.Struct, frozen=True, tag="has"):
    """A field is known."""

    field: str


class Not(msgspec.Struct, frozen=True, tag="not"):
    """The negation."""

    part: "Expression"


class All(msgspec.Struct, frozen=True, tag="all"):
    """Every part holds.  Two or more, none of them an ``All``."""

    parts: "tuple[Expression, ...]"


class Any(msgspec.Struct, frozen=True, tag="any"):
    """One part at least holds.  Two or more, none of them an ``Any``."""

    parts: "tuple[Expression, ...]"


Leaf = Compare | OneOf | Between | Within | Has
Expression = Compare | OneOf | Between | Within | Has | Not | All | Any


def every(parts: "list[Expression] | tuple[Expression, ...]") -> Expression:
    """All of ``parts``, one or more."""
    flat = [one for part in parts for one in (part.parts if isinstance(part, All) else (part,))]
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def either(parts: "list[Expression] | tuple[Expression, ...]") -> Expression:
    """One of ``parts``, one or more."""
    flat = [one for part in parts for one in (part.parts if isinstance(part, Any) else (part,))]
    return flat[0] if len(flat) == 1 else Any(tuple(flat))
