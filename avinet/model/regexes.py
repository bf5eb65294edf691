"""Whether a data plane can take a regular expression: RE2's syntax, read by the grammar in its own documentation.

RE2 is not Python's ``re``: it has neither look-around nor back-references (they would make matching slow), and other
escapes.  Its Python binding is not installed everywhere, and a refusal should come from the controller with the place of
the slip, not minutes later from each SE.  So this reads the part of the syntax that people use, and refuses what is
outside it even where RE2 might take it.  The SE's own answer is the last word, as for everything.

Envoy also bounds the compiled size; ``size`` follows RE2's compiler closely (literals, classes, repetitions), but knows
nothing of common prefixes, so only what is well over the bound is refused here.
"""

import re

import attrs

MAX_SIZE = 100
"""Instructions: the default of Envoy's runtime key ``re2.max_program_size.error_level``, as of 1.40."""
MAX_REPEAT = 1_000
"""RE2's own bound, also of repetitions within repetitions."""
MAX_DEPTH = 50
"""Groups within groups; RE2 takes 1,000, nobody needs 50."""
_SLACK = 1.25
"""What alternatives with a common beginning may save."""
_OVERHEAD = 4
"""Instructions of every program."""

_REPEAT = re.compile(r"\{(\d{1,6})(?:(,)(\d{1,6})?)?\}")
_FLAGS = re.compile(
    r"\?(?:[imsU]+(?:-[imsU]+)?|-[imsU]+)?(?P<end>[:)])|\?P?<(?P<name>[A-Za-z_]\w*)>", re.ASCII
)
_ESCAPE = re.compile(
    r"\\(?:(?P<class>[dDsSwW])|(?P<empty>[bBAz])|(?P<unicode>[pP](?:\{\^?[A-Za-z_]+\}|[CLMNPSZ]))"
    r"|(?P<one>[aftnrvC]|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]{1,6}\}|0[0-7]{0,2}|[!-/:-@\[-`{-~]))"
)
_NAMED_CLASS = re.compile(
    r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_CLASS_SIZE = {"d": 1, "D": 2, "s": 3, "S": 4, "w": 3, "W": 4}
"""Ranges of bytes."""


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """Why, and where."""


@attrs.frozen
class _Part:
    """A piece of an expression: its compiled size, and how often its innermost part may be repeated."""

    size: int
    repeats: int = 1


@attrs.define
class _Parser:
    text: str
    at: int = 0
    depth: int = 0

    def alternatives(self) -> _Part:
        """Up to the end or the closing bracket."""
        parts = [self._sequence()]
        while self._peek() == "|":
            self.at += 1
            parts.append(self._sequence())
        return _Part(sum(p.size for p in parts) + len(parts) - 1, max(p.repeats for p in parts))

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _sequence(self) -> _Part:
        size, repeats = 0, 1
        while self._peek() not in {"", "|", ")"}:
            part = self._repeated(self._atom())
            size, repeats = size + part.size, max(repeats, part.repeats)
        return _Part(size, repeats)

    def _repeated(self, part: _Part) -> _Part:
        found = self._operator(part)
        if found is None:
            return part
        if self._peek() == "?":
            self.at += 1  # as few as possible
        again = self.at
        if self._operator(found) is not None:
            self.at = again
            raise _Refused(
                f"at character {again + 1}: a repetition is repeated; put brackets around the first"
            )
        return found

    def _operator(self, part: _Part) -> _Part | None:
        match self._peek():
            case "*" | "+" | "?":
                self.at += 1
                return _Part(part.size + 1, part.repeats)
            case "{":
                return self._counted(part)
            case _:
                return None

    def _counted(self, part: _Part) -> _Part | None:
        found = _REPEAT.match(self.text, self.at)
        if found is None:
            return None  # a plain bracket
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] is not None else None
        if max(least, most or 0) * part.repeats > MAX_REPEAT or (most is not None and most < least):
            raise _Refused(
                f"at character {self.at + 1}: repetitions go up to {MAX_REPEAT}, the larger number last"
            )
        self.at = found.end()
        size = least * part.size + (1 if most is None else (most - least) * (part.size + 1))
        return _Part(size, max(1, least, most or 0) * part.repeats)

    def _atom(self) -> _Part:
        character = self._peek()
        if character in {"*", "+", "?"} or _REPEAT.match(self.text, self.at):
            raise _Refused(f"at character {self.at + 1}: there is nothing to repeat")
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escaped()
        self.at += 1
        return _Part(2 if character == "." else len(character.encode()))

    def _group(self) -> _Part:
        opened = self.at
        self.at += 1
        captures = 2
        if self._peek() == "?":
            flags = _FLAGS.match(self.text, self.at)
            if flags is None:
                raise _Refused(
                    f"at character {opened + 1}: RE2 has no look-around, only (...), (?:...), (?P<name>...), (?i)"
                )
            self.at = flags.end()
            if flags["end"] == ")":
                if self._peek() in {"*", "+", "?"}:
                    raise _Refused(f"at character {self.at + 1}: there is nothing to repeat")
                return _Part(0)
            captures = 2 if flags["name"] else 0
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"it nests deeper than {MAX_DEPTH} brackets")
        part = self.alternatives()
        self.depth -= 1
        if self._peek() != ")":
            raise _Refused(f"at character {opened + 1}: the bracket is not closed")
        self.at += 1
        return attrs.evolve(part, size=part.size + captures)

    def _escaped(self) -> _Part:
        if self.text.startswith("\\Q", self.at):
            literal, _, _ = self.text[self.at + 2 :].partition("\\E")
            self.at += len(literal) + 4
            return _Part(len(literal.encode()))
        found = self._escape()
        if found["class"]:
            return _Part(_CLASS_SIZE[found["class"]])
        return _Part(5 if found["unicode"] else 1)

    def _escape(self) -> "re.Match[str]":
        found = _ESCAPE.match(self.text, self.at)
        if found is None:
            what = self.text[self.at : self.at + 2]
            hint = "; it has no back-references" if what[1:].isdigit() else ""
            raise _Refused(f"at character {self.at + 1}: RE2 does not know the escape {what}{hint}")
        self.at = found.end()
        return found

    def _class(self) -> _Part:
        opened = self.at
        self.at += 1
        size = 0
        if self._peek() == "^":
            self.at, size = self.at + 1, 1
        first = True
        while first or self._peek() != "]":
            if not self._peek():
                raise _Refused(f"at character {opened + 1}: the class is not closed")
            size += self._class_item()
            first = False
        self.at += 1
        return _Part(max(1, size))

    def _class_item(self) -> int:
        begun = self.at
        named = _NAMED_CLASS.match(self.text, self.at)
        if named is not None:
            self.at = named.end()
            return 2
        if self.text.startswith("[:", self.at):
            raise _Refused(f"at character {begun + 1}: there is no such class of characters")
        low = self._class_end()
        high = self.text[self.at + 1 : self.at + 2]
        if low is None or self._peek() != "-" or high in {"", "]"}:
            return 2 if low is None else 1
        self.at += 1
        last = self._class_end()
        if last is None or last < low:
            raise _Refused(f"at character {begun + 1}: a range goes from a character to a later one")
        return 1

    def _class_end(self) -> int | None:
        """One character of a class by number; None for a set of its own, as for digits."""
        if self._peek() != "\\":
            self.at += 1
            return ord(self.text[self.at - 1])
        found = self._escape()
        if found["empty"] or found[0] == "\\C":
            raise _Refused(f"at character {found.start() + 1}: {found[0]} stands for no character in a class")
        return None if found["one"] is None else _character(found["one"])


def _character(escape: str) -> int:
    if escape[0] == "x":
        return int(escape[1:].strip("{}"), 16)
    if escape[0] == "0":
        return int(escape, 8)
    return ord({"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}.get(escape, escape))


def check_regex(text: str, most: int = MAX_SIZE, taker: str = "the data plane") -> str:
    """Why RE2 and ``taker`` (which takes ``most`` instructions) would refuse it; empty when they would not."""
    parser = _Parser(text)
    try:
        part = parser.alternatives()
        if parser.at < len(text):
            return f"at character {parser.at + 1}: a bracket is closed that was not opened"
    except _Refused as why:
        return str(why)
    size = part.size + _OVERHEAD
    if size > most * (_SLACK if "|" in text else 1):
        return f"it compiles to about {size} steps; {taker} takes {most}. Use fewer or shorter repetitions"
    return ""
