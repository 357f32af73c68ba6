"""The one error family of the hypervisor's operations."""

from __future__ import annotations


class Refusal(Exception):
    """A request that the hypervisor refuses; nothing was changed unless the text says so.

    ``code`` is stable (``no_domain``, ``name_taken``, ``no_memory``, ...), ``errno`` Xen's name for it where Xen has
    one, ``rmi_result`` a raw X0 when the RMM was the cause.
    """

    def __init__(self, code: str, message: str, errno: str = "", rmi_result: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.errno = errno
        self.rmi_result = rmi_result
