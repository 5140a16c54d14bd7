"""The grammar of filter expressions: `or` binds less than `and`, that less than `not`; a match is a selector with an
operator and a value, or a value that is `in` a selector."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.api.consul.filter.fields import FIELDS, MAPS
from gapless.api.consul.filter.tokens import FilterError, Token, tokens

DEEPEST = 64
"""Parentheses and `not` within each other."""
Selector = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """`operator`: `==`, `in`, `matches` or `empty`. For `in` the selector is where to look, as for `contains`."""

    selector: Selector
    operator: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Not:
    inner: Expression


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expression, ...]


Expression = Match | Not | And | Or


def parse(text: str) -> Expression:
    """Raises FilterError."""
    parser = _Parser(text)
    found = parser.either()
    parser.expect("end", "", "the end, `and` or `or`")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._position = 0
        self._depth = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._position]

    def _take(self) -> Token:
        token = self._next
        self._position += token.kind != "end"
        return token

    def _word(self, *words: str) -> bool:
        """Take these words, if they are next."""
        ahead = self._tokens[self._position : self._position + len(words)]
        if [(token.kind, token.text) for token in ahead] != [("word", word) for word in words]:
            return False
        self._position += len(words)
        return True

    def _sign(self, text: str) -> bool:
        if (self._next.kind, self._next.text) != ("sign", text):
            return False
        self._position += 1
        return True

    def expect(self, kind: str, text: str, what: str) -> Token:
        token = self._next
        if token.kind != kind or (text and token.text != text):
            raise FilterError(token.at, f"no match found, expected: {what}")
        return self._take()

    def either(self) -> Expression:
        parts = [self._both()]
        while self._word("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Expression:
        parts = [self._negation()]
        while self._word("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise FilterError(self._next.at, f"more than {DEEPEST} levels")
        try:
            if self._word("not"):
                return Not(self._negation())
            if self._sign("("):
                inner = self.either()
                self.expect("sign", ")", '")"')
                return inner
            return self._match()
        finally:
            self._depth -= 1

    def _match(self) -> Expression:
        start = self._next
        left = self._operand()
        if self._word("not", "in"):
            return Not(Match(self._selector(), "in", _text(left)))
        if self._word("in"):
            return Match(self._selector(), "in", _text(left))
        selector = _selected(left, start)
        return self._empty(selector) or self._compared(selector)

    def _empty(self, selector: Selector) -> Expression | None:
        if self._word("is", "not", "empty"):
            return Not(Match(selector, "empty"))
        return Match(selector, "empty") if self._word("is", "empty") else None

    def _compared(self, selector: Selector) -> Expression:
        for signs, operator in (("==", "=="), ("!=", "!=")):
            if self._sign(signs):
                found = Match(selector, "==", _text(self._operand()))
                return found if operator == "==" else Not(found)
        negated = self._word("not")
        for word, operator in (("contains", "in"), ("matches", "matches")):
            if self._word(word):
                match = Match(selector, operator, _text(self._operand()))
                return Not(match) if negated else match
        raise FilterError(self._next.at, "no match found, expected: an operator")

    def _selector(self) -> Selector:
        start = self._next
        return _selected(self._operand(), start)

    def _operand(self) -> str | Selector:
        """A literal as its text, or a selector (which may stand for a bare value as well)."""
        token = self._take()
        if token.kind in ("string", "number"):
            return token.text
        if token.kind != "word":
            raise FilterError(token.at, "no match found, expected: a selector or a value")
        path = [token.text]
        while self._next.glued and (self._next.text in (".", "[") and self._next.kind == "sign"):
            path.append(self._step())
        return tuple(path)

    def _step(self) -> str:
        if self._sign("["):
            name = self.expect("string", "", "a quoted key").text
            self.expect("sign", "]", '"]"')
            return name
        self.expect("sign", ".", '"."')
        if self._next.kind not in ("word", "number"):
            raise FilterError(self._next.at, "no match found, expected: a name")
        return self._take().text


def _text(operand: str | Selector) -> str:
    return operand if isinstance(operand, str) else ".".join(operand)


def _selected(operand: str | Selector, start: Token) -> Selector:
    """Raises FilterError for what cannot be selected."""
    if isinstance(operand, str):
        raise FilterError(start.at, "no match found, expected: a selector")
    for name in operand:
        if name in MAPS:
            break
        if name not in FIELDS:
            raise FilterError(start.at, f'Selector "{".".join(operand)}" is not valid')
    return operand
