"""A Realm with real instructions: Unicorn under the real RMM, driven by the host's loop."""

from __future__ import annotations

import struct

from hypervisor.arm.cca.ports import ShutdownReason, VcpuState
from hypervisor.arm.cca.rec_loop import bind_vcpus
from hypervisor.arm.cca.relinquish import relinquish
from machine.board import Board
from machine.cpu import engine

# fmt: off
CODE = (
    0x52800820,  # mov  w0, #'A'
    0xD2A44001,  # movz x1, #0x2200, lsl #16
    0xF2D00001,  # movk x1, #0x8000, lsl #32
    0xD2800065,  # mov  x5, #3
    0xB9000020,  # str  w0, [x1]
    0xB9400422,  # ldr  w2, [x1, #4]
    0x0B020000,  # add  w0, w0, w2
    0xF10004A5,  # subs x5, x5, #1
    0x54FFFF81,  # b.ne the store
    0xD503207F,  # wfi
    0x52800100,  # mov  w0, #8
    0x72B08000,  # movk w0, #0x8400, lsl #16
    0xD4000003,  # smc  #0
)
# fmt: on


class Counter:
    """A device that remembers what is stored and reads as 1."""

    def __init__(self) -> None:
        self.stored: list[int] = []

    def read(self, offset: int, size: int, vcpu: int) -> int:
        return 1

    def write(self, offset: int, size: int, value: int, vcpu: int) -> bool:
        self.stored.append(value)
        return True


def test_a_realm_talks_to_a_device_waits_and_powers_itself_off(host):
    cpu = engine.Engine(host.memory)
    try:
        host.board = Board(host.memory, cpu)
        host.board.load_firmware("rmm.monitor")
        guest = host.guest(vcpus=1)
        host.ns.write(guest.ram[0].pa, struct.pack(f"<{len(CODE)}I", *CODE))
        host.finalize(guest)
        device = Counter()
        guest.mmio.add(0x2200_0000, 0x1000, "counter", device)
        (vcpu,) = bind_vcpus(guest, host.board, guest.root_pa, host.log)
        for _ in range(100):
            if vcpu.run_once() is not VcpuState.RUNNABLE:
                break
        assert vcpu.state is VcpuState.BLOCKED
        assert device.stored == [ord("A"), ord("B"), ord("C")]
        vcpu.wake()
        for _ in range(100):
            if vcpu.run_once() is not VcpuState.RUNNABLE:
                break
        assert vcpu.state is VcpuState.PARKED
        assert guest.reasons == [ShutdownReason.POWEROFF]
        list(relinquish(guest.root_pa, host.board.smc, host.ns, host.pages, host.log))
        assert host.delegated() == 0
        assert host.log.texts == ["ARM CCA: RMI configured"]
    finally:
        cpu.close()
