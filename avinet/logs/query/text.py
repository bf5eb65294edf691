"""Expressions as text that reads back to the same expressions: for answers, links and pages of records."""

from avinet.logs.query.expressions import (
    All,
    Any,
    Between,
    Compare,
    Expression,
    Has,
    Not,
    OneOf,
    Op,
    Value,
    Within,
)
from avinet.logs.query.scanner import shown
from avinet.logs.query.times import show_instant

_WORDS = frozenset({Op.STARTS, Op.ENDS, Op.CONTAINS})
_NEGATED = {Op.EQUAL: "!=", Op.MATCHES: "!~"}


def text_of(filter_: Expression | None, since_us: int | None = None, until_us: int | None = None) -> str:
    """A whole query."""
    parts = []
    if filter_ is not None:
        bare = isinstance(filter_, Any) and (since_us, until_us) != (None, None)
        parts.append(f"({_text(filter_)})" if bare else _text(filter_))
    if since_us is not None:
        parts.append(f"since {show_instant(since_us)}")
    if until_us is not None:
        parts.append(f"until {show_instant(until_us)}")
    return " ".join(parts)


def _value(value: Value, *, in_list: bool = False, raw: bool = False) -> str:
    if isinstance(value, str):
        return shown(value, in_list=in_list, raw=raw)
    return repr(value).removesuffix(".0")


def _text(part: Expression, *, negated: bool = False) -> str:
    match part:
        case Not(inner):
            return f"not {_text(part)}" if negated else _text(inner, negated=True)
        case All(parts) | Any(parts):
            joint = " and " if isinstance(part, All) else " or "
            text = joint.join(
                f"({_text(one)})" if isinstance(one, All | Any) and isinstance(part, All) else _text(one)
                for one in parts
            )
            return f"not ({text})" if negated else text
        case Compare():
            return _compared(part, negated=negated)
        case _:
            return _listed(part, negated=negated)


def _compared(part: Compare, *, negated: bool) -> str:
    word = "not " if negated else ""
    if part.op in _WORDS:
        return f"{part.field} {word}{part.op.value} {_value(part.value)}"
    text = _value(part.value, raw=part.op is Op.MATCHES)
    if negated and part.op in _NEGATED:
        return f"{part.field}{_NEGATED[part.op]}{text}"
    return f"{word}{part.field}{part.op.value}{text}"


def _listed(part: OneOf | Between | Within | Has, *, negated: bool) -> str:
    word = "not " if negated else ""
    match part:
        case OneOf(field, values):
            return f"{field} {word}in ({', '.join(_value(value, in_list=True) for value in values)})"
        case Between(field, low, _):
            return f"{field}{'!=' if negated else '='}{low // 100}xx"
        case Within(field, networks):
            listed = networks[0] if len(networks) == 1 else f"({', '.join(networks)})"
            return f"{field} {word}in {listed}"
        case Has(field):
            return f"{word}has {field}"
