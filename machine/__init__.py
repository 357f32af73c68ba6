"""The hardware: physical memory with its granule protection table, a processing element, its GIC and timers.

Enter at :class:`machine.board.Board`, one process's view of the machine; :mod:`machine.memory` is the physical address
space that all processes share, :mod:`machine.cpu` the interface of the processing element.
"""
