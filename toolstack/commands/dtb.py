"""``xl dtb``: the device tree that a configuration gives its guest. Not a command of Xen; needs no hypervisor."""

from __future__ import annotations

import os
import sys
import tempfile

from toolstack import options
from toolstack.command_table import Settings
from toolstack.config_file import read_config, split_arguments
from toolstack.errors import XlError
from toolstack.guest import prepare


def run_dtb(arguments: list[str], settings: Settings) -> int:
    """Write the blob, or its source text, to a file or to standard output."""
    given = options.read("dtb", arguments, "o:", {"output": "o:", "dts": "dts"}, required=1)
    path, overrides = split_arguments("dtb", given.arguments)
    guest = prepare(read_config(path, overrides, quiet=True))
    if "dts" in given:
        from toolstack.dtb.dts import to_dts

        content = to_dts(guest.dtb).encode("utf-8", "surrogateescape")
    else:
        content = guest.dtb
    output = given.value("o")
    if output is None or output == "-":
        if "dts" not in given and sys.stdout.isatty():
            raise XlError("xl: a device tree blob is no text for a terminal: use --dts, or -o FILE")
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return 0
    try:
        _write_whole(output, content)
    except OSError as error:
        raise XlError(f"xl: cannot write {output}: {error.strerror}") from None
    return 0


def _write_whole(path: str, content: bytes) -> None:
    """Write CONTENT so that PATH never holds a part of it; what is no regular file is written to directly."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(content)
        return
    directory = os.path.dirname(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=os.path.basename(path) + ".")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
