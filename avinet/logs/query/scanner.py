"""The characters of a query: words, operators and values, each with its place.

What a value may contain depends on what stands before it, so the parser says what it wants next.  A value without quotes
goes on to the next space, and may hold brackets where each that opens is closed: ``(path~^/(a|b)/ or status=500)``
reads as people mean it.
"""

import re

import attrs

from avinet.logs.query.errors import InvalidLogQueryError

MAX_QUERY_CHARS = 16_384
"""A list of 1,000 addresses; half of the longest request line that is taken."""
MAX_VALUE_CHARS = 8_192
"""As long as a path can be that Envoy takes (its limit of all headers is 60 KiB, but nobody types that)."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_SYMBOL = re.compile(r"!~|!=|<=|>=|==|=~|&&|\|\||[=<>~!&|]")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\", '"': '"', "'": "'"}
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
QUOTES = "\"'"
SIGNS = "=<>~!"
"""A value that begins with one of these stands in quotes: it would be read as part of the operator."""


@attrs.frozen
class Token:
    """A piece of the query; ``at`` counts from 0."""

    text: str
    at: int
    end: int
    quoted: bool = False

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.end > self.at


@attrs.define
class Scanner:
    """Where reading stands."""

    text: str
    at: int = 0

    def fail(self, at: int, what: str, allowed: tuple[str, ...] = (), hint: str = "") -> InvalidLogQueryError:
        """An error at a place."""
        return InvalidLogQueryError(query=self.text, column=at + 1, what=what, allowed=allowed, hint=hint)

    def skip(self) -> int:
        """Past white space; the place."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at

    @property
    def ended(self) -> bool:
        """Whether only white space is left."""
        return self.skip() == len(self.text)

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        self.skip()
        return self.text[self.at : self.at + 1]

    def take(self, letter: str) -> bool:
        """Past ``letter``, where it is next."""
        if self.peek() != letter:
            return False
        self.at += 1
        return True

    def word(self) -> Token:
        """A name or a keyword; an empty token where none is next."""
        return self._matched(_WORD)

    def symbol(self) -> Token:
        """An operator; an empty token where none is next."""
        return self._matched(_SYMBOL)

    def _matched(self, pattern: "re.Pattern[str]") -> Token:
        at = self.skip()
        found = pattern.match(self.text, at)
        if found is None:
            return Token("", at, at)
        self.at = found.end()
        return Token(found[0], at, self.at)

    def value(self, *, in_list: bool = False, raw: bool = False) -> Token:
        """A value, in quotes or not; within a list it ends at a comma, too.

        ``raw`` is for regular expressions: a backslash belongs to the expression, and only keeps a quote from ending it.
        """
        at = self.skip()
        if self.text[at : at + 1] and self.text[at] in QUOTES:
            token = self._quoted(at, raw=raw)
        else:
            token = self._bare(at, in_list=in_list)
        if len(token.text) > MAX_VALUE_CHARS:
            raise self.fail(at, f"the value has {len(token.text)} characters; {MAX_VALUE_CHARS} is the most")
        return token

    def _bare(self, at: int, *, in_list: bool) -> Token:
        self.at, _ = _bare_end(self.text, at, in_list=in_list)
        return Token(self.text[at : self.at], at, self.at)

    def _quoted(self, at: int, *, raw: bool) -> Token:
        quote, end = self.text[at], at + 1
        parts: list[str] = []
        while end < len(self.text):
            letter = self.text[end]
            if letter == quote:
                self.at = end + 1
                return Token("".join(parts), at, self.at, quoted=True)
            if letter != "\\":
                parts.append(letter)
                end += 1
            elif raw:
                parts.append(self.text[end : end + 2])
                end += 2
            else:
                escaped, end = self._escape(end)
                parts.append(escaped)
        raise self.fail(at, "the quote is not closed", (f"{quote} at the end of the value",))

    def _escape(self, at: int) -> tuple[str, int]:
        letter = self.text[at + 1 : at + 2]
        if letter in _ESCAPES:
            return _ESCAPES[letter], at + 2
        code = _CODE.match(self.text, at + 1)
        if code is not None:
            number = int(code[1] or code[2] or code[3], 16)
            if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
                return chr(number), code.end()
        raise self.fail(
            at,
            f"there is no escape \\{letter}" if letter else "the value ends in the middle of an escape",
            ("\\\\", '\\"', "\\'", "\\n", "\\r", "\\t", "\\0", "\\x7f", "\\u00e9", "\\U0001f4a9"),
        )


def _bare_end(text: str, at: int, *, in_list: bool) -> tuple[int, int]:
    """Where a value without quotes ends, and how many of its brackets are open there."""
    depth = 0
    while at < len(text):
        letter = text[at]
        if letter.isspace() or (in_list and letter == "," and not depth):
            break
        if letter == "(":
            depth += 1
        elif letter == ")":
            if not depth:
                break
            depth -= 1
        at += 1
    return at, depth


def shown(value: str, *, in_list: bool = False, raw: bool = False) -> str:
    """``value`` as a scanner reads it back: without quotes where that can be."""
    if value and value[0] not in QUOTES + SIGNS and _bare_end(value, 0, in_list=in_list) == (len(value), 0):
        return value
    if raw:
        return _shown_raw(value)
    parts = []
    for letter in value:
        code = ord(letter)
        if letter in '\\"':
            parts.append(f"\\{letter}")
        elif letter.isprintable():
            parts.append(letter)
        else:
            parts.append(
                f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
            )
    return f'"{"".join(parts)}"'


def _shown_raw(value: str) -> str:
    """A regular expression in quotes.  What both quotes are in gets one of them written as its number."""
    for quote in QUOTES:
        if _ends_at(value + quote, quote) == len(value):
            return f"{quote}{value}{quote}"
    return '"' + re.sub(r'(\\.)|"', lambda found: found[1] or r"\x22", value, flags=re.DOTALL) + '"'


def _ends_at(text: str, quote: str) -> int:
    at = 0
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    return at
