"""`python -m xlconfig FILE`: read a configuration and say what libxlu would say of it.

With --json the answer is one object: `rc` (0 or 22, EINVAL), `report` (the error lines) and `settings` (every
assignment that was stored, in order). Bytes of the file appear in it as the characters with the same numbers
(latin-1), so that a file in any encoding can be compared. Lists may nest thousands deep, so the text is made without
recursion."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from xlconfig import ParseFailure, load
from xlconfig.values import Atom, Setting, Value


def _quoted(text: str) -> str:
    return json.dumps(text.encode("utf-8", "surrogateescape").decode("latin-1"))


def _value(value: Value) -> str:
    parts: list[str] = []
    pending: list[Value | str] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            parts.append(item)
        elif isinstance(item, Atom):
            parts.append(f'{{"str": {_quoted(item.text)}, "line": {item.line}}}')
        else:
            parts.append('{"list": [')
            pending.append(f'], "line": {item.line}}}')
            for index in range(len(item.items) - 1, -1, -1):
                pending.append(item.items[index])
                if index:
                    pending.append(", ")
    return "".join(parts)


def _answer(rc: int, report: str, stored: Sequence[Setting]) -> str:
    settings = ", ".join(
        f'{{"name": {_quoted(setting.name)}, "op": "{setting.operator}", "line": {setting.line}, '
        f'"value": {_value(setting.value)}}}'
        for setting in stored
    )
    return f'{{"rc": {rc}, "report": {_quoted(report)}, "settings": [{settings}]}}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; without --json, 1 when the file does not parse."""
    parser = argparse.ArgumentParser(prog="python -m xlconfig", description="Read an xl.cfg file as libxlu reads it.")
    parser.add_argument("file", help="the configuration, or - for standard input")
    parser.add_argument("override", nargs="*", help="a setting to append, as on xl's command line")
    parser.add_argument("--json", action="store_true", help="print rc, report and settings as one JSON object")
    parser.add_argument("--source", help="how messages name the file (default: as given)")
    options = parser.parse_args(arguments)
    text = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    try:
        rc, report, stored = 0, "", load(text, options.source or options.file, options.override).stored
    except ParseFailure as failure:
        rc, report, stored = errno.EINVAL, failure.report, failure.stored
    if options.json:
        print(_answer(rc, report, stored))
        return 0
    sys.stderr.buffer.write(report.encode("utf-8", "surrogateescape"))
    return 1 if rc else 0


if __name__ == "__main__":
    sys.exit(main())
