"""The xl.cfg language: from the text of a configuration file to a typed domain configuration.

Enter here: `load(text, source, overrides)` parses and gives Settings or raises ParseFailure with the report that xl
prints; `parse_domain_config(settings)` gives a DomainConfig or raises ConfigError with xl's message and exit status;
`to_libxl_json(config)` gives what a dry run prints; `check_realm(config)` refuses what a Realm guest cannot have.

The language is read exactly as Xen's libxlu reads it, and keys are checked in the order of Xen's xl. The parser (and
with it lark) is imported at the first load, so that commands which read no file start without it."""

from __future__ import annotations

from collections.abc import Sequence

from xlconfig.domain_config import ConfigError, DomainConfig, HostFacts
from xlconfig.libxl_json import format_json, to_libxl_json
from xlconfig.read_domain import parse_domain_config
from xlconfig.realm_checks import RealmRefusal, check_realm
from xlconfig.report import ParseFailure
from xlconfig.settings import Settings

__all__ = [
    "ConfigError",
    "DomainConfig",
    "HostFacts",
    "ParseFailure",
    "RealmRefusal",
    "Settings",
    "check_realm",
    "format_json",
    "load",
    "parse_domain_config",
    "to_libxl_json",
]


def load(text: bytes, source: str, overrides: Sequence[str] = ()) -> Settings:
    """Parse a configuration. `source` names it in messages.

    `overrides` are settings from a command line; each is appended to the text as a line of its own, so they obey the
    same grammar and their errors carry line numbers behind the end of the file. Raises ParseFailure."""
    from xlconfig.parser import parse

    if overrides:
        added = "".join(f"{override}\n" for override in overrides)
        text = text + b"\n" + added.encode("utf-8", "surrogateescape")
    return parse(text, source)
