"""The scanner: turns the text of a configuration into tokens, reporting what libxlu calls lexical errors on the way.

The terminals themselves stand in grammar.lark. This module adds what a list of patterns cannot say: where a lexical
error ends, which line a token counts for, and that the last character of a file is never a lexical error.

Text here is latin-1, one character for each byte of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from xlconfig.escapes import EscapeError, unescape
from xlconfig.report import ParseReport, text_of

__all__ = ["Token", "scan"]

# A lexical error that starts with one of these earns the remark about Python code.
PYTHON_LOOKING = frozenset("+-.():")

#: libxlu has no bare words as values. One is ours, because everybody writes it so: ``realm=true`` (and ``false``).
BARE_BOOLEANS = {"true": "1", "false": "0"}
BARE_BOOLEAN_KEYS = frozenset({"realm"})

_RUN_OR_BLANK = re.compile(r"[^ \t\n]+|[ \t]")


class Token(NamedTuple):
    """`text` is what the file says (what an error is "near"), `value` what an atom or a name means."""

    terminal: str
    text: str
    line: int
    value: str


def scan(text: str, terminals: re.Pattern[str], end: str, report: ParseReport) -> Iterator[Token]:
    """Yield the tokens of `text`, then for ever the `end` token.

    `terminals` has one named group for each terminal of the grammar; BLANKS are dropped. Lexical errors go to `report`
    and scanning goes on behind them.
    """
    line = last_line = 1
    position, size = 0, len(text)
    match = terminals.match
    unread = ""
    before = last = ""
    while position < size:
        found = match(text, position)
        if found is not None:
            position = found.end()
            terminal = found.lastgroup
            if terminal == "BLANKS":
                continue
            lexeme = found.group()
            last_line = line
            if lexeme in BARE_BOOLEANS and last == "=" and before in BARE_BOOLEAN_KEYS:
                before, last = last, lexeme
                yield Token("NUMBER", lexeme, line, BARE_BOOLEANS[lexeme])
                continue
            before, last = last, lexeme
            if terminal == "NEWLINE":
                line += 1
                yield Token("NEWLINE", lexeme, last_line, "")
            elif terminal == "STRING":
                yield Token("STRING", lexeme, line, _dequote(lexeme, line, report))
            else:
                assert terminal is not None
                yield Token(terminal, lexeme, line, lexeme)
            continue
        if text[position] in PYTHON_LOOKING:
            report.looks_like_python = True
        if position + 1 == size:
            unread = text[position]
            break
        if text[position + 1] == "\n":
            lexeme = text[position : position + 2]
            line += 1
            last_line = line
            position += 2
            report.lexical_error(line, lexeme, "lexical error")
            yield Token("NEWLINE", lexeme, line, "")
            continue
        rest = _RUN_OR_BLANK.match(text, position + 1)
        assert rest is not None
        report.lexical_error(line, text[position : rest.end()], "lexical error")
        position = rest.end()
    while True:
        yield Token(end, unread + "\0", last_line, "")


def _dequote(lexeme: str, line: int, report: ParseReport) -> str:
    """Return the value of a quoted string. After any error libxlu no longer looks, and neither does this."""
    if report.failed:
        return ""
    if "\0" in lexeme:
        # libxlu aborts here (an assertion on the C string's end); a refusal is the useful part of that.
        report.lexical_error(line, lexeme, "NUL byte in quoted string")
        return ""
    try:
        return text_of(unescape(lexeme[1:-1]))
    except EscapeError as refused:
        report.lexical_error(line, lexeme, str(refused))
        return ""
