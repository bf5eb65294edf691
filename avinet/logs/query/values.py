"""What a value means for a field: numbers, sizes, durations, addresses and networks, expressions; or why it cannot."""

import ipaddress
import re
from collections.abc import Callable

import attrs

from avinet.logs.query.expressions import Between, Compare, Expression, OneOf, Op, Value, Within, either
from avinet.logs.query.fields import Field, Type
from avinet.logs.query.scanner import Token
from avinet.logs.query.times import size_bytes, span_us
from avinet.model.regexes import check_regex

MAX_REGEX_CHARS = 1_000
MAX_REGEX_STEPS = 2_000
"""Instructions of the compiled program: 20 times what the data plane takes for a route, and yet well within what RE2 needs
to match without falling back to its slow way (its budget is 8 MiB an expression)."""
MAX_INTEGER = 2**53
"""What JSON's numbers hold exactly."""
_STATUS_CLASS = re.compile(r"([1-5])[xX]{2}", re.ASCII)
_INTEGER = re.compile(r"\d{1,16}", re.ASCII)
_NUMBER = re.compile(r"\d{1,16}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?", re.ASCII)

TEXT_OPS = frozenset({Op.MATCHES, Op.STARTS, Op.ENDS, Op.CONTAINS})
ORDER_OPS = frozenset({Op.LESS, Op.AT_MOST, Op.MORE, Op.AT_LEAST})


@attrs.frozen
class Unfit(Exception):  # noqa: N818 - the parser makes an error with a place of it
    """Why a value does not fit its field."""

    what: str
    allowed: tuple[str, ...] = ()
    hint: str = ""


def ops_of(field: Field) -> tuple[str, ...]:
    """The operators that a field takes, as they are written."""
    if field.choices:
        return ("=", "!=", "in (...)", "not in (...)")
    if field.textual:
        network = ("in 10.0.0.0/8",) if field.type is Type.ADDRESS else ()
        return ("=", "!=", "~", "!~", *network, "in (...)", "startswith", "endswith", "contains")
    return ("=", "!=", "<", "<=", ">", ">=", "in (...)")


def compared(field: Field, op: Op, token: Token) -> Expression:
    """A comparison of ``field`` with what ``token`` says.  Raises ``Unfit``."""
    text = token.text
    if op is Op.MATCHES:
        return Compare(field.name, op, _regex(text))
    if op in TEXT_OPS:
        if not text:
            raise Unfit(
                "an empty text is part of every text", hint=f"To ask whether it is known: has {field.name}."
            )
        return Compare(field.name, op, text)
    if field.type is Type.ADDRESS:
        return _addresses(field, (token,))
    if field.name == "status" and (found := _STATUS_CLASS.fullmatch(text)):
        return _status_class(field, op, 100 * int(found[1]))
    return Compare(field.name, op, value_of(field, text))


def one_of(field: Field, tokens: list[Token], fail: Callable[[Token, Unfit], Exception]) -> Expression:
    """``field`` is one of several."""
    if field.type is Type.ADDRESS:
        for token in tokens:
            try:
                _addresses(field, (token,))
            except Unfit as why:
                raise fail(token, why) from None
        return _addresses(field, tuple(tokens))
    values: list[Value] = []
    ranges: list[Expression] = []
    for token in tokens:
        try:
            found = _STATUS_CLASS.fullmatch(token.text) if field.name == "status" else None
            if found:
                ranges.append(_status_class(field, Op.EQUAL, 100 * int(found[1])))
            else:
                values.append(value_of(field, token.text))
        except Unfit as why:
            raise fail(token, why) from None
    unique = tuple(dict.fromkeys(values))
    if len(unique) == 1:
        ranges.insert(0, Compare(field.name, Op.EQUAL, unique[0]))
    elif unique:
        ranges.insert(0, OneOf(field.name, unique))
    return either(list(dict.fromkeys(ranges)))


def value_of(field: Field, text: str) -> Value:
    """``text`` as a value of ``field``."""
    match field.type:
        case Type.INTEGER:
            if not _INTEGER.fullmatch(text):
                raise Unfit(f"{field.name} is a whole number", _numbers(field), _list_hint(field, text))
            number = int(text)
        case Type.BYTES:
            size = size_bytes(text)
            if size is None:
                raise Unfit(
                    f"{field.name} is a number of bytes", ("1500", "10KiB", "2.5MB"), _list_hint(field, text)
                )
            number = size
        case Type.MILLISECONDS:
            return _milliseconds(field, text)
        case _:
            if field.choices and text not in field.choices:
                raise Unfit(f"{field.name} is one of {len(field.choices)} words", field.choices)
            return text
    if number > MAX_INTEGER:
        raise Unfit(f"the number is too large; {MAX_INTEGER} is the most")
    return number


def _numbers(field: Field) -> tuple[str, ...]:
    return ("500", "5xx") if field.name == "status" else ("a number such as 8080",)


def _list_hint(field: Field, text: str) -> str:
    return f"For one of several: {field.name} in (...)." if "," in text else ""


def _milliseconds(field: Field, text: str) -> float:
    if _NUMBER.fullmatch(text):
        number = float(text)
    elif (span := span_us(text)) is not None:
        number = span / 1_000
    else:
        raise Unfit(
            f"{field.name} is a length of time", ("250 (milliseconds)", "1.5s", "2m"), _list_hint(field, text)
        )
    if number > MAX_INTEGER:
        raise Unfit(f"the number is too large; {MAX_INTEGER} is the most")
    return number


def _status_class(field: Field, op: Op, low: int) -> Expression:
    if op is Op.EQUAL:
        return Between(field.name, low, low + 99)
    above = op in {Op.MORE, Op.AT_MOST}
    return Compare(field.name, op, low + 99 if above else low)


def _regex(text: str) -> str:
    if not text:
        raise Unfit("an empty expression matches everything")
    if len(text) > MAX_REGEX_CHARS:
        raise Unfit(f"the regular expression has {len(text)} characters; {MAX_REGEX_CHARS} is the most")
    why = check_regex(text, MAX_REGEX_STEPS, "the log store")
    if why:
        raise Unfit(f"RE2 does not take the regular expression: {why}")
    return text


def _addresses(field: Field, tokens: tuple[Token, ...]) -> Expression:
    """Networks, an address being the smallest; of IPv4 and IPv6 as they come."""
    networks = []
    for token in tokens:
        try:
            network = ipaddress.ip_network(token.text, strict=False)
        except ValueError:
            raise Unfit(
                f"{field.name} is an IP address",
                ("192.0.2.1", "10.0.0.0/8", "2001:db8::/32"),
                hint=f"For a part of its text: {field.name} startswith 10.1.",
            ) from None
        if isinstance(network, ipaddress.IPv6Network) and network.network_address.scope_id:
            raise Unfit("an address with a zone is in no log", ("fe80::1",))
        networks.append(_plain(network))
    return Within(field.name, tuple(dict.fromkeys(networks)))


def _plain(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    """One spelling; an IPv4 network written as IPv6 is the IPv4 network."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)
