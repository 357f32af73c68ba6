"""``xl console``."""

from __future__ import annotations

from toolstack import options
from toolstack.command_table import Settings
from toolstack.console import attach_to_console
from toolstack.daemon import connected
from toolstack.domains import domid_of, info_of
from toolstack.errors import XlError

_TYPES = ("pv", "serial", "vuart")


def run_console(arguments: list[str], settings: Settings) -> int:
    """Attach to a domain's VUART. 0 when the escape character was typed or the domain ended."""
    from vuart.attach import ESCAPE, parse_escape

    given = options.read("console", arguments, "n:t:e:", {"num": "n:", "type": "t:", "escape": "e:"}, required=1)
    kind = given.value("t")
    if kind is not None and kind not in _TYPES:
        raise XlError("console type supported are: pv, serial, vuart")
    number = given.value("n")
    if number is not None and not (number.isascii() and number.isdigit()):
        raise XlError(f"console number {number!r} is not a number")
    try:
        escape = parse_escape(given.value("e") or "") if "e" in given else ESCAPE
    except ValueError as error:
        raise XlError(f"xl: {error}") from None
    with connected() as connection:
        domid = domid_of(connection, given.arguments[0])
        domain = info_of(connection, domid)
        if domain is None:
            raise XlError(f"Error: Domain '{given.arguments[0]}' does not exist.")
        if kind in ("pv", "serial"):
            raise XlError(
                f"Unable to attach console: domain {domid} has no {kind} console"
                + (" (it has a vuart: xl console -t vuart)" if domain.vuart else "")
            )
        if not domain.vuart:
            raise XlError(f'Unable to attach console: domain {domid} has no vuart (set vuart="sbsa_uart")')
        if int(number or 0):
            raise XlError(f"Unable to attach console: domain {domid} has only console 0")
        return attach_to_console(connection, domid, escape=escape)
