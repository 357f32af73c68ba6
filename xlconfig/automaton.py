"""The LALR(1) automaton of grammar.lark, with the default reductions that bison would give it.

Lark builds the tables; this module reshapes them, because error reports and recovery depend on the shape. In a state
that does not shift RECOVERY, the most frequent reduction is taken for every token that the state does not mention, so
an error is noticed later, in a state that lists fewer expected tokens. A state whose only action is one reduction
takes it without looking at the next token."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lark import Lark
from lark.grammar import Rule
from lark.parsers.lalr_analysis import Shift

__all__ = ["Automaton", "Reduction", "State", "build_automaton"]

GRAMMAR = Path(__file__).with_name("grammar.lark")

END = "$END"
RECOVERY = "RECOVERY"

# As many expected tokens as a message lists; with more than that it lists none.
MAX_EXPECTED = 4

# What bison calls the tokens, in the order in which it lists them.
SPELLING = {
    END: "$end",
    "IDENT": "IDENT",
    "STRING": "STRING",
    "NUMBER": "NUMBER",
    "NEWLINE": "NEWLINE",
    "PLUS_EQUALS": "+=",
    "EQUALS": "'='",
    "SEMICOLON": "';'",
    "OPEN": "'['",
    "CLOSE": "']'",
    "COMMA": "','",
}


class Reduction(NamedTuple):
    """Replace `size` symbols by `origin`; `action` names what that means (empty: the first symbol's value)."""

    origin: str
    size: int
    action: str


class State(NamedTuple):
    """One state: what to do for a token, what to do for any other, and where to go after a reduction."""

    shifts: dict[str, int]
    reductions: dict[str, Reduction]
    default: Reduction | None
    needs_token: bool
    gotos: dict[str, int]

    def expected(self) -> list[str]:
        """Spellings of the tokens with an action of their own here, RECOVERY left out."""
        return [
            spelling for terminal, spelling in SPELLING.items()
            if terminal in self.shifts or terminal in self.reductions
        ]  # fmt: skip

    def unexpected(self, terminal: str) -> str:
        """The message for a token that this state cannot take."""
        expected = self.expected()
        message = f"syntax error, unexpected {SPELLING[terminal]}"
        if 0 < len(expected) <= MAX_EXPECTED:
            message += ", expecting " + " or ".join(expected)
        return message


class Automaton(NamedTuple):
    states: dict[int, State]
    start: int
    end: int
    terminals: re.Pattern[str]


@cache
def build_automaton() -> Automaton:
    """Read grammar.lark and build its automaton (once a process; some tens of milliseconds)."""
    lark = Lark(GRAMMAR.read_text(), parser="lalr", lexer="basic", start="file", propagate_positions=False)
    tables = lark.parse_interactive("").parser_state.parse_conf.parse_table
    states = {number: _state(actions) for number, actions in tables.states.items()}
    end = tables.end_states["file"]
    states[end] = State({END: end}, {}, None, True, {})  # lark accepts here without an action of its own
    patterns = {terminal.name: terminal.pattern.to_regexp() for terminal in lark.terminals if terminal.pattern}
    alternatives = "|".join(f"(?P<{name}>{pattern})" for name, pattern in patterns.items())
    return Automaton(states, tables.start_states["file"], end, re.compile(alternatives))


def _state(actions: dict[str, tuple[object, object]]) -> State:
    shifts: dict[str, int] = {}
    gotos: dict[str, int] = {}
    reductions: dict[str, Reduction] = {}
    for symbol, (kind, argument) in actions.items():
        if kind is Shift:
            assert isinstance(argument, int)
            is_terminal = symbol in SPELLING or symbol == RECOVERY
            (shifts if is_terminal else gotos)[str(symbol)] = argument
        else:
            assert isinstance(argument, Rule)
            reductions[str(symbol)] = Reduction(
                str(argument.origin.name), len(argument.expansion), argument.alias or ""
            )
    if not reductions or RECOVERY in shifts:
        return State(shifts, reductions, None, True, gotos)
    [(default, _)] = Counter(reductions.values()).most_common(1)
    others = {terminal: reduction for terminal, reduction in reductions.items() if reduction != default}
    return State(shifts, others, default, bool(shifts or others), gotos)
