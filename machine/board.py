"""One process's view of the machine: memory, the processing element it drives, and the way into the firmware.

A :class:`Board` has no firmware at power-on; :meth:`Board.load_firmware` loads an image by name, as a boot loader
would, and from then on :meth:`Board.smc` reaches it. Every process of the machine loads the same firmware over the same
memory: the firmware keeps its state in that memory, so any of them can carry out any call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from machine.cpu import Cpu
from machine.memory import NonSecureView, PhysicalMemory

#: x0..x4 after an SMC.
SmcResult = tuple[int, int, int, int, int]
SmcHandler = Callable[..., SmcResult]

#: SMCCC NOT_SUPPORTED (-1) in x0.
SMC_UNKNOWN: SmcResult = (0xFFFF_FFFF_FFFF_FFFF, 0, 0, 0, 0)


def _no_firmware(fid: int, *args: int) -> SmcResult:
    return SMC_UNKNOWN


class Board:
    """Memory, the non-secure view of it, a processing element (or None in a process that runs no vCPU) and the conduit.

    ``smc(fid, x1, ...)`` answers (x0, x1, x2, x3, x4); without firmware, or for an unknown function, x0 is all ones.
    """

    def __init__(self, memory: PhysicalMemory, cpu: Cpu | None = None) -> None:
        self.memory = memory
        self.ns = NonSecureView(memory)
        self.cpu = cpu
        self.smc: SmcHandler = _no_firmware

    def load_firmware(self, image: str, **options: Any) -> None:
        """Load R-EL2 firmware: ``boot(board, **options)`` of the module named ``image`` gives the SMC handler.

        Raises ImportError when there is no such image, and whatever the image's boot code raises.
        """
        handler: SmcHandler = importlib.import_module(image).boot(self, **options)
        self.smc = handler
