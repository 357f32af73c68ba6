"""The hypervisor's build-time options, in Kconfig's ``.config`` form, read at start.

``developer.config`` beside this module is what is used when no other file is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT = Path(__file__).with_name("developer.config")
_SET = re.compile(r"(CONFIG_[A-Z0-9_]+)=(y|n)\Z")
_UNSET = re.compile(r"# (CONFIG_[A-Z0-9_]+) is not set\Z")


class KconfigError(Exception):
    """Raised for an unreadable file, an unknown option or an impossible combination; names file and line."""


@dataclass(frozen=True)
class Kconfig:
    """The options that exist. ``ARM_CCA_REALM_DEBUG_VUART`` depends on the other two."""

    arm_cca: bool = False
    sbsa_vuart_console: bool = False
    arm_cca_realm_debug_vuart: bool = False


_FIELDS = {
    "CONFIG_ARM_CCA": "arm_cca",
    "CONFIG_SBSA_VUART_CONSOLE": "sbsa_vuart_console",
    "CONFIG_ARM_CCA_REALM_DEBUG_VUART": "arm_cca_realm_debug_vuart",
}


def load(path: Path = DEFAULT) -> Kconfig:
    """Read a configuration; KconfigError when it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KconfigError(f"{path}: cannot read configuration: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KconfigError(f"{path}: not a configuration: it is not UTF-8 text") from None
    values: dict[str, bool] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        found = _SET.match(line) or _UNSET.match(line)
        if found is None:
            if line and not line.startswith("#"):
                raise KconfigError(f"{path}:{number}: expected CONFIG_NAME=y or =n, found `{line}'")
            continue
        name = found[1]
        if name not in _FIELDS:
            raise KconfigError(f"{path}:{number}: unknown option {name} (known: {', '.join(_FIELDS)})")
        values[_FIELDS[name]] = found.re is _SET and found[2] == "y"
    config = Kconfig(**values)
    if config.arm_cca_realm_debug_vuart and not (config.arm_cca and config.sbsa_vuart_console):
        raise KconfigError(
            f"{path}: CONFIG_ARM_CCA_REALM_DEBUG_VUART depends on CONFIG_ARM_CCA and CONFIG_SBSA_VUART_CONSOLE"
        )
    return config
