"""Pages that a plain guest asks the hypervisor to put into its address space: the shared page and grant table frames.

Enter at :class:`Physmap`. A page has one place at a time, as in Xen: mapping it somewhere else takes it from where it
was. What RAM was there before is no longer reachable for the guest, and stays with the domain.
"""

from __future__ import annotations

from hypervisor.arm.cca.ports import HostPages
from hypervisor.arm.p2m import P2m
from machine.memory import GRANULE_SIZE

#: Xen's defaults for a guest (max_grant_frames, and what the table starts with).
MAX_GRANT_FRAMES = 64
INITIAL_GRANT_FRAMES = 1


class Physmap:
    """The special pages of one guest; ``shared_info`` and ``grant_frames`` are physical addresses.

    :raises MemoryError: when the host has no page.
    """

    def __init__(self, pages: HostPages, p2m: P2m) -> None:
        self._pages = pages
        self._p2m = p2m
        self.shared_info, *self.grant_frames = pages.alloc(1 + INITIAL_GRANT_FRAMES)
        #: Where each page is in the guest, by physical address.
        self._gpa: dict[int, int] = {}

    def grow_grant_table(self, frames: int) -> None:
        """Have at least ``frames`` frames; ValueError above the limit, MemoryError without pages."""
        if frames > MAX_GRANT_FRAMES:
            raise ValueError(f"{frames} grant frames, at most {MAX_GRANT_FRAMES}")
        if frames > len(self.grant_frames):
            self.grant_frames += self._pages.alloc(frames - len(self.grant_frames))

    def place(self, pa: int, gpa: int) -> None:
        """Map the special page at ``pa`` at ``gpa``, and nowhere else; ValueError beyond the address space."""
        before = self._gpa.get(pa)
        if before == gpa:
            return
        self._p2m.map(gpa, pa, GRANULE_SIZE)
        if before is not None:
            self.remove(before)
        self._gpa = {page: at for page, at in self._gpa.items() if at != gpa}
        self._gpa[pa] = gpa

    def remove(self, gpa: int) -> bool:
        """Take whatever is mapped at ``gpa`` away; False when nothing is."""
        found = self._p2m.translate(gpa)
        if found is None:
            return False
        self._gpa.pop(found.pa, None)
        self._p2m.unmap(gpa, GRANULE_SIZE)
        return True

    def where(self, pa: int) -> int | None:
        """The guest address of a special page."""
        return self._gpa.get(pa)
