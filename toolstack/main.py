"""``xl``: from a command line to an exit status. Enter at :func:`run`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from toolstack import command_table
from toolstack.command_table import Settings
from toolstack.errors import HelpRequested, Interrupted, UsageError, XlError

_Run = Callable[[list[str], Settings], int]


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line (without the program's name); messages go to the standard streams."""
    try:
        settings, rest = _global_options(list(arguments))
        if not rest:
            sys.stdout.write(command_table.help_of_all())
            return 1
        word, *rest = rest
        if word == "help":
            return _help(rest)
        return _run(word, rest, settings)
    except HelpRequested as wanted:
        sys.stdout.write(command_table.help_of(wanted.command))
        return 0
    except XlError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        if isinstance(error, UsageError) and error.help_for is not None:
            sys.stderr.write(command_table.help_of(error.help_for))
        return error.status
    except KeyboardInterrupt:
        return 130
    except Interrupted as interrupted:
        return interrupted.status


def _global_options(left: list[str]) -> tuple[Settings, list[str]]:
    verbose, dry_run, line_progress, timestamps = 0, False, False, False
    while left and left[0].startswith("-") and len(left[0]) > 1:
        word = left.pop(0)
        if word == "--":
            break
        for letter in ["h"] if word == "--help" else word[1:]:
            match letter:
                case "v":
                    verbose += 1
                case "N":
                    dry_run = True
                case "t":
                    line_progress = True
                case "T":
                    timestamps = True
                case "f":
                    pass  # force: what it forced in Xen does not exist here
                case "h":
                    return Settings(), ["help"]
                case _:
                    raise XlError("unknown global option")
    return Settings(verbose, dry_run, line_progress, timestamps), left


def _help(words: list[str]) -> int:
    sys.stdout.write(command_table.help_of(words[0]) if words else command_table.help_of_all())
    return 0


def _run(word: str, arguments: list[str], settings: Settings) -> int:
    row = command_table.find(word)
    if settings.dry_run and not row.dry_run:
        raise XlError("command does not implement -N (dryrun) option")
    module = importlib.import_module(f"toolstack.commands.{row.module}")
    if settings.timestamps:
        from toolstack.timestamps import stamp_standard_error

        stamp_standard_error()
    run_command: _Run = getattr(module, "run_" + row.name.replace("-", "_"))
    return run_command(arguments, settings)


def main() -> None:
    """The console script: run, flush, and leave with the command's status."""
    # Bytes of a configuration that are not UTF-8 are printed as they were.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="surrogateescape" if stream is sys.stdout else "backslashreplace")
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Nothing is left to tidy; tearing the interpreter down would take longer than many commands do.
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
