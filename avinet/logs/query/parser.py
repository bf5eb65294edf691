"""The language: ``status>=500 path~^/api client in 10.0.0.0/8 since 1h``.

    query      = { since TIME | until TIME | alternatives }
    alternatives = sequence { or sequence }
    sequence   = part { [and] part }
    part       = not part | ( alternatives ) | has FIELD | FIELD OPERATOR VALUE | FIELD [not] in LIST

``since`` and ``until`` say which records are looked at, whatever the rest says, so they stand outside brackets and once each.
Whatever text comes in, either a query comes out or an error with its place and what may stand there.
"""

import attrs

from avinet.logs.query.errors import InvalidLogQueryError
from avinet.logs.query.expressions import Expression, Has, Not, Op, either, every
from avinet.logs.query.fields import BY_WORD, FIELDS, Field, Type, nearest_field
from avinet.logs.query.scanner import MAX_QUERY_CHARS, SIGNS, Scanner, Token
from avinet.logs.query.times import instant_us
from avinet.logs.query.values import ORDER_OPS, TEXT_OPS, Unfit, compared, one_of, ops_of

MAX_DEPTH = 50
"""Brackets and negations within each other."""
MAX_PARTS = 500
"""Comparisons in a query; each costs every record that is looked at."""
MAX_LIST = 1_000
"""Values of one list."""

_SYMBOLS = {
    "=": (Op.EQUAL, False),
    "==": (Op.EQUAL, False),
    "!=": (Op.EQUAL, True),
    "<": (Op.LESS, False),
    "<=": (Op.AT_MOST, False),
    ">": (Op.MORE, False),
    ">=": (Op.AT_LEAST, False),
    "~": (Op.MATCHES, False),
    "=~": (Op.MATCHES, False),
    "!~": (Op.MATCHES, True),
}
_WORD_OPS = {op.value: op for op in (Op.STARTS, Op.ENDS, Op.CONTAINS)}
_TIMES = ("since", "until")
_KEYWORDS = frozenset({"and", "or", "not", "has", "in", *_TIMES, *_WORD_OPS})
_AND, _OR, _NOT = frozenset({"and", "&&", "&"}), frozenset({"or", "||", "|"}), frozenset({"not", "!"})
_BEGINS = ("FIELD OPERATOR VALUE", "has FIELD", "not", "(")
_TIME_FORMS = ("1h", "90m", "2d", "2026-11-27T12:00:00Z", "2026-11-27", "now")


@attrs.frozen
class Asked:
    """What a query says."""

    filter: Expression | None
    since_us: int | None
    until_us: int | None
    """The first microsecond that no longer counts."""


def parse(text: str, now_us: int) -> Asked:
    """Read a query; times so long ago are counted from ``now_us``.  Raises ``InvalidLogQueryError``."""
    return _Parser(Scanner(text), now_us).whole()


@attrs.define
class _Parser:
    scan: Scanner
    now_us: int
    depth: int = 0
    parts: int = 0
    times: dict[str, int] = attrs.field(factory=dict)

    def whole(self) -> Asked:
        text = self.scan.text
        if len(text) > MAX_QUERY_CHARS:
            raise self.scan.fail(
                MAX_QUERY_CHARS, f"it has {len(text)} characters; {MAX_QUERY_CHARS} is the most"
            )
        for at, letter in enumerate(text):
            if 0xD800 <= ord(letter) <= 0xDFFF:
                raise self.scan.fail(at, "half of a character")
        found = None if self._only_times() else self._alternatives()
        if not self.scan.ended:
            self._left_over()
        return Asked(found, self.times.get("since"), self.times.get("until"))

    def _only_times(self) -> bool:
        """Past the times that stand first; whether that was all."""
        joined = False
        while self._time():
            joined = self._joined(_AND)
        return self.scan.ended and not joined

    def _left_over(self) -> None:
        at = self.scan.skip()
        if self.scan.peek() == ")":
            raise self.scan.fail(
                at,
                "a bracket is closed that was not opened",
                hint='A value that has such a bracket stands in quotes: path="/a)".',
            )
        raise self.scan.fail(at, "this begins nothing", _BEGINS)

    # Parts and what joins them

    def _alternatives(self) -> Expression:
        found = [self._sequence()]
        while self._joined(_OR):
            found.append(self._sequence())
        return either(found)

    def _sequence(self) -> Expression:
        found = [self._part()]
        while True:
            while not self.depth and self._time():
                pass
            joined = self._joined(_AND)
            if joined and not self.depth and self._time():
                continue
            if not joined and not self._another():
                return every(found)
            found.append(self._part())

    def _another(self) -> bool:
        """Whether a part follows without a word between."""
        if self.scan.peek() in {"", ")"}:
            return False
        mark = self.scan.at
        joined = self._joined(_OR)
        self.scan.at = mark
        return not joined and (self.scan.peek() in {"(", "!"} or bool(self._ahead()))

    def _ahead(self) -> Token:
        mark = self.scan.at
        word = self.scan.word()
        self.scan.at = mark
        return word

    def _joined(self, words: frozenset[str]) -> bool:
        """Past one of ``words``, where it is next."""
        mark = self.scan.at
        token = self.scan.word() or self.scan.symbol()
        if token.text.lower() in words:
            return True
        self.scan.at = mark
        return False

    def _deeper(self, at: int) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.scan.fail(at, f"it nests deeper than {MAX_DEPTH} brackets and negations")

    def _part(self) -> Expression:
        at = self.scan.skip()
        if self._joined(_NOT):
            self._deeper(at)
            part = self._part()
            self.depth -= 1
            return part.part if isinstance(part, Not) else Not(part)
        if self.scan.take("("):
            return self._bracket(at)
        word = self.scan.word()
        if not word:
            what = "something is missing" if self.scan.ended else "this begins nothing"
            raise self.scan.fail(at, f"{what}; a field is expected", _BEGINS, self._fields_hint())
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise self.scan.fail(at, f"more than {MAX_PARTS} comparisons")
        if word.text.lower() == "has":
            return Has(self._field(self.scan.word()).name)
        if word.text.lower() in _TIMES:
            raise self.scan.fail(
                at,
                f"{word.text} stands once, outside brackets, and is joined by nothing but and",
                _BEGINS,
            )
        return self._comparison(self._field(word))

    def _bracket(self, at: int) -> Expression:
        self._deeper(at)
        found = self._alternatives()
        if not self.scan.take(")"):
            if self.scan.ended:
                raise self.scan.fail(at, "the bracket is not closed", (")",))
            self._left_over()
        self.depth -= 1
        return found

    def _fields_hint(self) -> str:
        return f"Fields: {', '.join(FIELDS)}."

    def _field(self, word: Token) -> Field:
        found = BY_WORD.get(word.text.lower())
        if found is None:
            if not word:
                raise self.scan.fail(word.at, "a field is expected", tuple(FIELDS))
            if word.text.lower() in _KEYWORDS:
                raise self.scan.fail(word.at, f"{word.text} cannot stand here", _BEGINS)
            near = nearest_field(word.text)
            hint = f"Did you mean {near}?" if near else ""
            raise self.scan.fail(word.at, f"there is no field {word.text}", tuple(FIELDS), hint)
        if found.type is Type.TIME:
            raise self.scan.fail(word.at, "the time is not compared", ("since TIME", "until TIME"))
        return found

    # Comparisons

    def _comparison(self, field: Field) -> Expression:
        at = self.scan.skip()
        word = self.scan.word()
        if word:
            return self._by_word(field, word)
        symbol = self.scan.symbol()
        op, negated = _SYMBOLS.get(symbol.text, (None, False))
        if op is None:
            what = f"{symbol.text} is no operator" if symbol else "an operator is expected"
            raise self.scan.fail(at, f"after {field.name}: {what}", ops_of(field))
        self._fits(field, op, symbol)
        after = self.scan.text[symbol.end : symbol.end + 1]
        if after and after in SIGNS and op is not Op.MATCHES:
            raise self.scan.fail(
                symbol.at,
                f"{symbol.text}{after} is no operator",
                ops_of(field),
                'A value that begins with such a sign stands in quotes: path="=x".' if field.textual else "",
            )
        return self._with_value(field, op, negated=negated)

    def _by_word(self, field: Field, word: Token) -> Expression:
        text, negated = word.text.lower(), False
        if text == "not":
            negated, word = True, self.scan.word()
            text = word.text.lower()
        if text == "in":
            return self._in(field, negated=negated)
        op = _WORD_OPS.get(text)
        if op is None:
            allowed = ("in", *_WORD_OPS) if negated else ops_of(field)
            raise self.scan.fail(word.at, f"after {field.name}: an operator is expected", allowed)
        self._fits(field, op, word)
        return self._with_value(field, op, negated=negated)

    def _fits(self, field: Field, op: Op, token: Token) -> None:
        plain = field.textual and not field.choices
        if (op in TEXT_OPS and not plain) or (op in ORDER_OPS and field.textual):
            raise self.scan.fail(token.at, f"{field.name} is not compared by {token.text}", ops_of(field))

    def _with_value(self, field: Field, op: Op, *, negated: bool) -> Expression:
        token = self._value(raw=op is Op.MATCHES)
        try:
            found = compared(field, op, token)
        except Unfit as why:
            raise self._unfit(token, why) from None
        return Not(found) if negated else found

    def _value(self, *, raw: bool = False, in_list: bool = False) -> Token:
        token = self.scan.value(raw=raw, in_list=in_list)
        if not token:
            raise self.scan.fail(token.at, "a value is expected", ("a word", 'a text in quotes: "..."'))
        return token

    def _unfit(self, token: Token, why: Unfit) -> InvalidLogQueryError:
        return self.scan.fail(token.at, why.what, why.allowed, why.hint)

    def _in(self, field: Field, *, negated: bool) -> Expression:
        if not self.scan.take("("):
            tokens = [self._value(in_list=True)]
            while self.scan.take(","):
                tokens.append(self._value(in_list=True))
                self._short(tokens)
        else:
            opened = self.scan.at - 1
            tokens = [self._value(in_list=True)]
            while not self.scan.take(")"):
                if not self.scan.take(","):
                    at = self.scan.skip()
                    raise self.scan.fail(
                        opened if self.scan.ended else at,
                        "the list is not closed" if self.scan.ended else "a comma is expected in the list",
                        (",", ")"),
                    )
                tokens.append(self._value(in_list=True))
                self._short(tokens)
        found = one_of(field, tokens, self._unfit)
        return Not(found) if negated else found

    def _short(self, tokens: list[Token]) -> None:
        if len(tokens) > MAX_LIST:
            raise self.scan.fail(tokens[-1].at, f"the list has more than {MAX_LIST} values")

    # Times

    def _time(self) -> bool:
        """Past ``since TIME`` or ``until TIME``, where it is next."""
        mark = self.scan.at
        word = self.scan.word()
        name = word.text.lower()
        if name not in _TIMES:
            self.scan.at = mark
            return False
        if name in self.times:
            raise self.scan.fail(word.at, f"{name} is said twice")
        self.scan.take("=")
        token = self._value()
        us = instant_us(token.text, self.now_us)
        if us is None:
            raise self.scan.fail(token.at, f"{name} takes a time", _TIME_FORMS)
        self.times[name] = us
        if len(self.times) == 2 and self.times["since"] >= self.times["until"]:
            raise self.scan.fail(token.at, "until is not after since, so there is nothing between them")
        return True
