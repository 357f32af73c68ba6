"""A configuration file and the settings of a command line, to a typed configuration; with xl's messages.

Enter at :func:`split_arguments` and :func:`read_config`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from toolstack.errors import CREATE_FAILED, INVAL, UsageError, XlError
from xlconfig import ConfigError, DomainConfig, HostFacts, ParseFailure, load, parse_domain_config

#: Largest configuration file that is read, in bytes. A Realm's is some hundred.
_SIZE_LIMIT = 16 << 20


def split_arguments(command: str, arguments: Sequence[str], path: str | None = None) -> tuple[str, list[str]]:
    """The configuration file and the settings (those with ``=``) among the ARGUMENTS of ``create`` or ``dtb``.

    PATH is the file when an option has named it. Raises UsageError for a second file (exit status 2), XlError for none.
    """
    overrides = []
    for word in arguments:
        if "=" in word:
            overrides.append(word)
        elif path is None:
            path = word
        else:
            raise UsageError(help_for=command)
    if path is None:
        raise XlError("Config file not specified and none in save file", status=-INVAL)
    return path, overrides


def read_config(path: str, overrides: Sequence[str], *, quiet: bool) -> DomainConfig:
    """Read PATH with OVERRIDES appended. Unless QUIET says on standard error which file it is.

    ``/dev/null`` is an empty configuration, as in Xen. Raises XlError: exit status 3 for a file that cannot be read, 1
    for one that does not parse, and xl's status for a setting that is wrong.
    """
    text = b"" if path == "/dev/null" else _read(path)
    if not quiet:
        print(f"Parsing config from {path}", file=sys.stderr)
    try:
        settings = load(text, path, overrides)
    except ParseFailure as failure:
        report = failure.report.rstrip("\n").split("\n")
        raise XlError(*report, "Failed to parse config: Invalid argument") from None
    host = HostFacts(cpus=len(os.sched_getaffinity(0)))
    try:
        return parse_domain_config(settings, host=host)
    except ConfigError as error:
        # Xen says nothing for a few settings; a line that names none of them is still better than silence.
        message = error.message or f"{path}: a setting is out of range"
        raise XlError(*message.rstrip("\n").split("\n"), status=error.exit_status) from None
    finally:
        for warning in settings.messages:
            sys.stderr.write(warning)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            text = file.read(_SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise XlError(f"Failed to read config file: {path}: {reason}", status=CREATE_FAILED) from None
    if len(text) > _SIZE_LIMIT:
        raise XlError(f"Failed to read config file: {path}: File too large", status=CREATE_FAILED)
    return text
