"""Parses a configuration file: `parse(text, source)` gives its Settings or raises ParseFailure.

The driver runs the automaton of grammar.lark by hand, since what users see of a broken file (which errors are listed,
where reading resumes, what was stored before) is decided by bison's recovery: after an error, symbols are dropped
until RECOVERY can be shifted, then tokens until a NEWLINE; and an error within three tokens of the last one is not
mentioned.

Nothing here recurses. Lists nest as deep as bison's stack of 10,000 symbols allows, 4,996 levels in the plainest case.
"""

from __future__ import annotations

from xlconfig.automaton import END, RECOVERY, Reduction, build_automaton
from xlconfig.lexer import scan
from xlconfig.report import ParseFailure, ParseReport
from xlconfig.settings import Settings
from xlconfig.values import Atom, ListValue, Operator, Setting, Value

__all__ = ["parse"]

STACK_LIMIT = 10_000
TOKENS_TO_TRUST_AGAIN = 3

Symbol = Value | str | None


def parse(text: bytes, source: str) -> Settings:
    """Parse `text`; `source` names it in messages. Raises ParseFailure with the report of every error."""
    report = ParseReport(source)
    run = _Run(text.decode("latin-1"), report)
    run.drive()
    if report.failed:
        raise ParseFailure(report.text(), run.stored)
    return Settings(source, run.stored)


class _Run:
    """One parse: the stacks, the settings stored so far, and the state of recovery."""

    def __init__(self, text: str, report: ParseReport) -> None:
        self.report = report
        self.automaton = build_automaton()
        self.tokens = scan(text, self.automaton.terminals, END, report)
        self.stored: list[Setting] = []
        self.newest: dict[str, Setting] = {}
        self.states = [self.automaton.start]
        self.values: list[Symbol] = [None]
        self.lines = [1]
        self.near = "\0"
        self.token_line = 1

    def drive(self) -> None:
        """Run the automaton over all tokens. Errors are in the report afterwards."""
        automaton, states, values, lines = self.automaton, self.states, self.values, self.lines
        table, end = automaton.states, automaton.end
        token = None
        distrust = 0
        while True:
            if len(states) >= STACK_LIMIT:
                self.report.error(self.token_line, self.near, "memory exhausted")
                return
            state = table[states[-1]]
            if state.needs_token:
                if token is None:
                    token = next(self.tokens)
                    self.near, self.token_line = token.text, token.line
                terminal = token.terminal
                target = state.shifts.get(terminal)
                if target is not None:
                    if target == end:
                        return
                    states.append(target)
                    values.append(token.value)
                    lines.append(token.line)
                    token = None
                    if distrust:
                        distrust -= 1
                    continue
                reduction = state.reductions.get(terminal) or state.default
            else:
                reduction = state.default
            if reduction is not None:
                self._reduce(reduction)
                continue

            assert token is not None
            if not distrust:
                self.report.error(token.line, token.text, state.unexpected(token.terminal))
            elif distrust == TOKENS_TO_TRUST_AGAIN:
                if token.terminal == END:
                    return
                token = None
            distrust = TOKENS_TO_TRUST_AGAIN
            if not self._recover():
                return

    def _recover(self) -> bool:
        """Drop symbols until RECOVERY can be shifted, and shift it; False when nothing is left to resume from."""
        table = self.automaton.states
        while RECOVERY not in table[self.states[-1]].shifts:
            del self.states[-1], self.values[-1], self.lines[-1]
            if not self.states:
                return False
        self.states.append(table[self.states[-1]].shifts[RECOVERY])
        self.values.append(None)
        self.lines.append(self.token_line)
        return True

    def _reduce(self, reduction: Reduction) -> None:
        origin, size, action = reduction
        states, values, lines = self.states, self.values, self.lines
        value: Symbol = None
        line = 1
        if size:
            value, line = values[-size], lines[-size]
        if action and not self.report.failed:
            value = self._act(action, values[-size:] if size else [], line)
        if size:
            del states[-size:], values[-size:], lines[-size:]
        states.append(self.automaton.states[states[-1]].gotos[origin])
        values.append(value)
        lines.append(line)

    def _act(self, action: str, symbols: list[Symbol], line: int) -> Symbol:
        """Carry out one grammar action; `line` is that of the first symbol."""
        match action, symbols:
            case "atom_value", [str(text)]:
                return Atom(text, line)
            case (("string_atom" | "number_atom"), [str(text)]):
                return text
            case "assign", [str(name), _, (Atom() | ListValue()) as value]:
                self._store(name, "=", self.lines[-1], value)
                return None
            case "add", [str(name), _, (Atom() | ListValue()) as value]:
                if self._add_to_newest(name, value):
                    self._store(name, "+=", self.lines[-1], value)
                return None
            case "list_value", [_, _, ListValue() as items, _]:
                return items
            case "no_items", []:
                return ListValue([], self.token_line)
            case "first_item", [(Atom() | ListValue()) as value, _]:
                return ListValue([value], line)
            case "further_item", [ListValue() as items, _, _, (Atom() | ListValue()) as value, _]:
                items.items.append(value)
                return items
        raise AssertionError(f"grammar.lark and this table disagree: {action} {symbols!r}")

    def _store(self, name: str, operator: Operator, line: int, value: Value) -> None:
        setting = Setting(name, operator, line, value)
        self.stored.append(setting)
        self.newest[name] = setting

    def _add_to_newest(self, name: str, value: Value) -> bool:
        """Put what `name` holds before `value`; the items of an earlier list move. False when the kinds differ."""
        earlier = self.newest.get(name)
        if earlier is None:
            return True
        match earlier.value, value:
            case Atom() as old, Atom():
                value.text = old.text + value.text
            case ListValue() as old, ListValue():
                old.items.extend(value.items)
                old.items, value.items = [], old.items
            case _:
                self.report.lexical_error(self.token_line, self.near, 'can\'t add [list] to "string" or vice versa')
                return False
        return True
