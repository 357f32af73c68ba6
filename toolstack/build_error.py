"""The one exception of the domain builder: image loading, memory layout and device tree all raise it."""

from __future__ import annotations

#: What Xen's domain builder appends to a panic line, by kind of failure (xc_get_last_error's descriptions).
INTERNAL_ERROR = "Internal error"
INVALID_KERNEL = "Invalid kernel"
OUT_OF_MEMORY = "Out of memory"


class BuildError(Exception):
    """A guest cannot be built from what was asked for: an image, the memory size, or a device tree property is wrong.

    ``str()`` is one line that names the file or the key, what was wrong, and what would be right. :attr:`step` is the
    libxl step that fails in Xen for this cause; :meth:`lines` gives both in the form that Xen logs them.
    """

    def __init__(self, message: str, *, step: str, kind: str = INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.kind = kind

    def lines(self) -> tuple[str, ...]:
        """The log lines of this failure, cause first: libxenguest's panic, then libxl's failing step."""
        return (f"xc: error: panic: {self.message}: {self.kind}", f"libxl: error: {self.step} failed")
