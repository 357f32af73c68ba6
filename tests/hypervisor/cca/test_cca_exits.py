"""Every REC exit: what the host does, what it says, what the next entry carries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hypervisor.arm.cca.ports import Level, ShutdownReason, VcpuState
from hypervisor.arm.cca.rec_loop import ENTRY_FLAGS, bind_vcpus
from hypervisor.arm.cca.records import Records
from hypervisor.arm.cca.state import ObjectState
from machine.ich import make_lr
from rmm.abi import rmi
from rmm.abi.registers import ExitReason, Ripas
from rmm.abi.rmi import Status
from rmm.abi.structures import RecRun

ALIAS = 1 << 47
DEVICE = 0x2200_0000
EMUL_MMIO, INJECT_SEA, REJECT = 1, 2, 0x10
EC_WFX, EC_SYSREG, EC_IABT, EC_DABT = 0x01, 0x18, 0x20, 0x24
SRE, DIR, SGI1R = 0x3A_3018, 0x32_3016, 0x3A_3016
WORD, WRITE, ISV = 2 << 22, 1 << 6, 1 << 24


class Device:
    """A word that can be read and written; offset 0x10 refuses."""

    def __init__(self) -> None:
        self.written = []

    def read(self, offset, size, vcpu):
        return None if offset == 0x10 else 0xCAFE_0000 + offset

    def write(self, offset, size, value, vcpu):
        self.written.append((offset, size, value, vcpu))
        return offset != 0x10


class Realm:
    """A built Realm whose REC_ENTER answers from a script of exit records."""

    def __init__(self, host) -> None:
        self.host = host
        self.guest = host.guest()
        host.finalize(self.guest)
        self.device = Device()
        self.guest.mmio.add(DEVICE, 0x1000, "uart", self.device)
        self.exits: list = []
        self.entered: list[SimpleNamespace] = []
        self.calls: list[tuple[str, tuple]] = []
        self.replies: dict[int, list] = {}
        self.now = 1000
        self.rmm = host.smc
        host.smc = self.smc
        self.vcpus = bind_vcpus(self.guest, host.board, self.guest.root_pa, host.log, lambda: self.now)
        self.vcpu = self.vcpus[0]
        host.log.clear()

    def smc(self, fid, *args):
        self.calls.append((rmi.COMMANDS[fid].name.removeprefix("RMI_"), args))
        if self.replies.get(fid):
            return (*self.replies[fid].pop(0), 0, 0, 0, 0)[:5]
        if fid != rmi.REC_ENTER:
            return self.rmm(fid, *args)
        page = self.host.ns.window(args[1], 4096)
        gprs = RecRun.enter_gprs.read(page)
        self.entered.append(SimpleNamespace(
            rec=args[0], flags=RecRun.enter_flags.read(page), gprs={n: v for n, v in enumerate(gprs) if v},
            en=self.host.board.cpu.ich.hcr & 1,
        ))
        step = self.exits.pop(0) if self.exits else {"exit_reason": ExitReason.IRQ}
        page[0x800:] = bytes(0x800)
        for name, value in step.items():
            if name == "gprs":
                for number, word in value.items():
                    page[0xA00 + 8 * number : 0xA08 + 8 * number] = word.to_bytes(8, "little")
            else:
                RecRun.FIELDS[name].write(page, value)
        return (0, 0, 0, 0, 0)

    def take(self, vcpu=None, **fields) -> VcpuState:
        """One iteration that ends in this exit."""
        self.exits = [fields]
        return (vcpu or self.vcpu).run_once()

    def sync(self, ec: int, iss: int = 0, vcpu=None, **fields) -> VcpuState:
        return self.take(vcpu, exit_reason=ExitReason.SYNC, esr=ec << 26 | iss, **fields)

    def abort(self, ipa: int, iss: int, **fields) -> VcpuState:
        return self.sync(EC_DABT, iss, hpfar=ipa >> 8 & ~0xF, far=ipa & 0xFFF, **fields)

    def next_entry(self) -> SimpleNamespace:
        """What the entry after the exit carried."""
        self.exits = []
        self.vcpu.run_once()
        return self.entered[-1]

    @property
    def said(self) -> list[tuple[Level, str]]:
        return list(self.host.log)

    def crashed(self, message: str) -> bool:
        return (
            self.said[0] == (Level.GUEST_ERR, f"d1v0 ARM CCA: {message}")
            and self.said[1][1].startswith("domain_crash called from hypervisor.arm.cca.")
            and self.said[2] == (Level.ERR, "Domain 1 (vcpu#0) crashed on cpu#0:")
            and self.guest.reasons == [ShutdownReason.CRASH]
            and self.vcpu.state is VcpuState.PARKED
        )


@pytest.fixture
def realm(host) -> Realm:
    return Realm(host)


def test_every_entry_traps_waiting_and_has_the_virtual_interface_on(realm):
    for _ in range(3):
        realm.take(exit_reason=ExitReason.IRQ)
    assert [(entry.flags, entry.gprs, entry.en) for entry in realm.entered] == [(ENTRY_FLAGS, {}, 1)] * 3
    assert ENTRY_FLAGS == 0xC


@pytest.mark.parametrize("reason", [ExitReason.IRQ, ExitReason.FIQ])
def test_an_interrupt_just_comes_back(realm, reason):
    assert realm.take(exit_reason=reason) is VcpuState.RUNNABLE
    assert realm.said == []


# Device access.


@pytest.mark.parametrize("alias", [0, ALIAS])
def test_a_store_reaches_the_device_with_its_value(realm, alias):
    assert realm.abort(DEVICE + 0x18 | alias, ISV | WORD | WRITE, gprs={0: 0x41}) is VcpuState.RUNNABLE
    assert realm.device.written == [(0x18, 4, 0x41, 0)]
    entry = realm.next_entry()
    assert (entry.flags, entry.gprs) == (ENTRY_FLAGS | EMUL_MMIO, {})


def test_a_loads_value_goes_into_the_next_entry_only(realm):
    realm.abort(DEVICE + 4 | ALIAS, ISV | WORD)
    entry = realm.next_entry()
    assert (entry.flags, entry.gprs) == (ENTRY_FLAGS | EMUL_MMIO, {0: 0xCAFE_0004})
    entry = realm.next_entry()
    assert (entry.flags, entry.gprs) == (ENTRY_FLAGS, {})


@pytest.mark.parametrize(("sas", "size"), [(0, 1), (1, 2), (2, 4), (3, 8)])
def test_the_access_size_comes_from_the_syndrome(realm, sas, size):
    realm.abort(DEVICE | ALIAS, ISV | sas << 22 | WRITE, gprs={0: (1 << 64) - 1})
    assert realm.device.written == [(0, size, (1 << 8 * size) - 1, 0)]


@pytest.mark.parametrize(("offset", "state"), [(0x10, 0), (0x2000, 2)])
@pytest.mark.parametrize("write", [0, WRITE])
def test_a_refused_access_and_one_without_a_device_become_an_abort(realm, offset, state, write):
    ipa = DEVICE + offset | ALIAS
    assert realm.abort(ipa, ISV | WORD | write) is VcpuState.RUNNABLE
    esr = EC_DABT << 26 | ISV | WORD | write
    assert realm.said == [(
        Level.GUEST_INFO,
        f"d1v0 ARM CCA: MMIO emulation failed state={state} raw_gpa={ipa:#x} gpa={DEVICE + offset:#x} esr={esr:#x}",
    )]
    assert realm.next_entry().flags == ENTRY_FLAGS | INJECT_SEA


def test_the_unprotected_alias_of_ram_has_no_device(realm):
    realm.abort(0x4000_0000 | ALIAS, ISV | WORD)
    assert realm.said[0][1].startswith("d1v0 ARM CCA: MMIO emulation failed state=2 raw_gpa=0x800040000000 gpa=")
    assert realm.next_entry().flags == ENTRY_FLAGS | INJECT_SEA


def test_unassigned_addresses_read_as_ones_when_the_domain_does_not_trap_them(realm):
    realm.guest.mmio.trap_unmapped_accesses = False
    realm.abort(0x5_0000_0000 | ALIAS, ISV | WORD)
    assert realm.next_entry().gprs == {0: 0xFFFF_FFFF}
    assert realm.said == []


def test_an_abort_without_a_syndrome_is_injected(realm):
    ipa = DEVICE | ALIAS
    realm.abort(ipa, 0)
    assert realm.said == [(
        Level.GUEST_INFO,
        f"d1v0 ARM CCA: MMIO abort without valid syndrome esr={EC_DABT << 26:#x} far=0x0 hpfar={ipa >> 8:#x}",
    )]
    assert realm.next_entry().flags == ENTRY_FLAGS | INJECT_SEA


def test_a_protected_abort_ends_in_the_refused_entry_as_in_the_series(realm):
    realm.abort(0x4100_0000, 0)
    realm.host.log.clear()
    realm.replies[rmi.REC_ENTER] = [(Status.ERROR_REC,)]
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.crashed("RMI_REC_ENTER failed status=0x3 data=0x0")


# Waiting.


def test_wfe_yields(realm):
    assert realm.sync(EC_WFX, 1) is VcpuState.YIELDED
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE


def test_wfi_blocks_until_an_interrupt_is_pending(realm):
    assert realm.sync(EC_WFX) is VcpuState.BLOCKED
    assert realm.vcpu.run_once() is VcpuState.BLOCKED
    assert len(realm.entered) == 1
    _raise_spi(realm)
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE
    assert len(realm.entered) == 2


def test_wfi_does_not_block_when_an_interrupt_is_pending(realm):
    _raise_spi(realm)
    assert realm.sync(EC_WFX) is VcpuState.RUNNABLE


def test_wake_lets_a_waiting_vcpu_go_on(realm):
    realm.sync(EC_WFX)
    realm.vcpu.wake()
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE


@pytest.mark.parametrize("esr", [0, 2, 3])
def test_a_timeout_makes_any_wait_a_timed_one(realm, esr):
    assert realm.sync(EC_WFX, esr, gprs={0: 5000}) is VcpuState.BLOCKED
    assert realm.vcpu.deadline == 5000
    assert realm.vcpu.run_once() is VcpuState.BLOCKED
    realm.now = 5000
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE
    assert realm.vcpu.deadline is None


@pytest.mark.parametrize("timeout", [0, 999, 1000])
def test_a_timed_wait_that_is_over_returns_at_once(realm, timeout):
    assert realm.sync(EC_WFX, 2, gprs={0: timeout}) is VcpuState.RUNNABLE


def test_an_event_ends_a_timed_wait(realm):
    realm.sync(EC_WFX, 2, gprs={0: 5000})
    _raise_spi(realm)
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE
    assert realm.vcpu.timers.wfxt is None


def _raise_spi(realm) -> None:
    irq = realm.guest.vgic.spis[0]
    irq.enabled = True
    irq.settle()
    realm.guest.vgic.set_irq_line(32, True)


# Timers.


@pytest.mark.parametrize(("ctl", "up"), [(5, True), (7, False), (1, False), (4, False), (0, False)])
def test_an_exit_drives_the_timers_lines(realm, ctl, up):
    realm.take(exit_reason=ExitReason.IRQ, cntp_ctl=ctl, cntp_cval=1, cntv_ctl=ctl, cntv_cval=2)
    irqs = realm.guest.vgic.vcpus[0].irqs
    assert (irqs[30].line, irqs[27].line) == (up, up)
    realm.take(exit_reason=ExitReason.IRQ)
    assert (irqs[30].line, irqs[27].line) == (False, False)


def test_a_waiting_vcpu_wakes_by_its_timer(realm):
    irq = realm.guest.vgic.vcpus[0].irqs[27]
    irq.enabled = True
    irq.settle()
    assert realm.sync(EC_WFX, cntv_ctl=1, cntv_cval=4000) is VcpuState.BLOCKED
    assert realm.vcpu.deadline == 4000
    realm.now = 4001
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE
    assert realm.host.board.cpu.ich.lr[0] & 0xFFFF == 27


def test_a_masked_timer_wakes_nobody(realm):
    realm.sync(EC_WFX, cntv_ctl=3, cntv_cval=1)
    assert realm.vcpu.deadline is None
    assert realm.vcpu.run_once() is VcpuState.BLOCKED


# PSCI.


@pytest.mark.parametrize("fid", [0x8400_0001, 0xC400_0001])
def test_cpu_suspend_waits_for_an_interrupt(realm, fid):
    assert realm.take(exit_reason=ExitReason.PSCI, gprs={0: fid}) is VcpuState.BLOCKED


def test_cpu_off_takes_the_vcpu_down_until_some_cpu_on(realm):
    assert realm.take(exit_reason=ExitReason.PSCI, gprs={0: 0x8400_0002}) is VcpuState.DOWN
    assert realm.vcpu.run_once() is VcpuState.DOWN
    assert not realm.guest.vgic.vcpus[0].online
    realm.vcpu.turn_on()
    assert realm.vcpu.run_once() is VcpuState.RUNNABLE


@pytest.mark.parametrize("fid", [0x8400_0003, 0xC400_0003])
def test_cpu_on_completes_with_success_and_wakes_the_target(realm, fid):
    realm.replies[rmi.PSCI_COMPLETE] = [(0,)]
    second = realm.vcpus[1]
    assert second.run_once() is VcpuState.DOWN
    assert not realm.guest.vgic.vcpus[1].online
    assert realm.take(exit_reason=ExitReason.PSCI, gprs={0: fid, 1: 1}) is VcpuState.RUNNABLE
    assert realm.calls[-1] == ("PSCI_COMPLETE", (realm.vcpu.rec, second.rec, 0))
    assert second.state is VcpuState.RUNNABLE
    assert realm.guest.vgic.vcpus[1].online
    assert second.run_once() is VcpuState.RUNNABLE
    assert realm.entered[-1].rec == second.rec


@pytest.mark.parametrize("fid", [0x8400_0004, 0xC400_0004])
def test_affinity_info_completes_and_wakes_nobody(realm, fid):
    realm.replies[rmi.PSCI_COMPLETE] = [(0,)]
    assert realm.take(exit_reason=ExitReason.PSCI, gprs={0: fid, 1: 1}) is VcpuState.RUNNABLE
    assert realm.vcpus[1].state is VcpuState.DOWN


@pytest.mark.parametrize(("fid", "reason"), [
    (0x8400_0008, ShutdownReason.POWEROFF), (0x8400_0009, ShutdownReason.REBOOT),
])
def test_system_off_and_reset_shut_the_domain_down(realm, fid, reason):
    assert realm.take(exit_reason=ExitReason.PSCI, gprs={0: fid}) is VcpuState.PARKED
    assert realm.guest.reasons == [reason]
    assert realm.said == []


@pytest.mark.parametrize("fid", [0x8400_0000, 0x8400_000E, 0x1234, 0xC400_0002])
def test_another_psci_function_crashes_the_domain(realm, fid):
    realm.take(exit_reason=ExitReason.PSCI, gprs={0: fid})
    assert realm.crashed(f"unsupported PSCI exit fid={fid:#x}")


@pytest.mark.parametrize(("mpidr", "number"), [(2, 2), (0x100, 16)])
def test_a_target_that_is_not_there_crashes_the_domain(realm, mpidr, number):
    realm.take(exit_reason=ExitReason.PSCI, gprs={0: 0x8400_0003, 1: mpidr})
    assert realm.crashed(f"invalid PSCI target vCPU {number}")


def test_a_target_without_a_rec_crashes_the_domain(realm):
    realm.vcpus[1].rec = 0
    realm.take(exit_reason=ExitReason.PSCI, gprs={0: 0x8400_0003, 1: 1})
    assert realm.crashed("missing target REC for PSCI target vCPU 1")


def test_a_refused_completion_crashes_the_domain(realm):
    realm.replies[rmi.PSCI_COMPLETE] = [(Status.ERROR_INPUT,)]
    realm.take(exit_reason=ExitReason.PSCI, gprs={0: 0x8400_0003, 1: 1})
    assert realm.crashed("RMI_PSCI_COMPLETE failed status=0x1 data=0x0")


# RIPAS.


def _ripas(realm, value=Ripas.RAM, base=0x4000_0000, top=0x4000_4000) -> VcpuState:
    return realm.take(exit_reason=ExitReason.RIPAS_CHANGE, ripas_base=base, ripas_top=top, ripas_value=value)


def test_a_ripas_change_is_carried_out_before_the_next_entry_to_its_end(realm):
    assert _ripas(realm) is VcpuState.RUNNABLE
    assert realm.calls[-1][0] == "REC_ENTER"
    realm.replies[rmi.RTT_SET_RIPAS] = [(0, 0x4000_1000), (0, 0x4000_4000)]
    entry = realm.next_entry()
    rd, rec = realm.vcpu.rd, realm.vcpu.rec
    assert [call for call in realm.calls if call[0] == "RTT_SET_RIPAS"] == [
        ("RTT_SET_RIPAS", (rd, rec, 0x4000_0000, 0x4000_4000)), ("RTT_SET_RIPAS", (rd, rec, 0x4000_1000, 0x4000_4000)),
    ]
    assert entry.flags == ENTRY_FLAGS
    realm.next_entry()
    assert [name for name, _ in realm.calls].count("RTT_SET_RIPAS") == 2


def test_ram_beyond_the_tables_is_rejected(realm):
    _ripas(realm)
    realm.replies[rmi.RTT_SET_RIPAS] = [(0, 0x4000_1000), (rmi.error_rtt(2),)]
    assert realm.next_entry().flags == ENTRY_FLAGS | REJECT
    assert realm.said == []


@pytest.mark.parametrize(("value", "x0", "message"), [
    (Ripas.EMPTY, 0x204, "RMI_RTT_SET_RIPAS failed status=0x4 data=0x2"),
    (Ripas.RAM, 0x1, "RMI_RTT_SET_RIPAS failed status=0x1 data=0x0"),
])
def test_another_failure_to_set_ripas_crashes_the_domain(realm, value, x0, message):
    _ripas(realm, value)
    realm.replies[rmi.RTT_SET_RIPAS] = [(x0,)]
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.crashed(message)


def test_an_unknown_ripas_value_crashes_the_domain(realm):
    _ripas(realm, Ripas.DESTROYED)
    realm.vcpu.run_once()
    assert realm.crashed("unsupported RIPAS change value=2 range=0x40000000-0x40004000")


@pytest.mark.parametrize("reached", [0x4000_0000, 0x4000_5000])
def test_progress_outside_the_range_crashes_the_domain(realm, reached):
    _ripas(realm)
    realm.replies[rmi.RTT_SET_RIPAS] = [(0, reached)]
    realm.vcpu.run_once()
    assert realm.crashed(f"invalid RIPAS progress 0x40000000 -> {reached:#x} (top 0x40004000)")


def test_a_ripas_change_without_an_rd_crashes_the_domain(realm):
    _ripas(realm)
    realm.vcpu.rd = 0
    realm.vcpu.run_once()
    assert realm.crashed("missing RD for RIPAS completion")


# System registers.


def _sysreg(realm, register: int, *, read: int, rt: int = 0, value: int = 0) -> VcpuState:
    return realm.sync(EC_SYSREG, register | rt << 5 | read, gprs={rt: value} if rt < 31 else {})


@pytest.mark.parametrize("rt", [0, 7])
def test_icc_sre_reads_as_seven_in_the_visible_register(realm, rt):
    assert _sysreg(realm, SRE, read=1, rt=rt) is VcpuState.RUNNABLE
    assert realm.next_entry().gprs == {rt: 7}
    assert realm.next_entry().gprs == {}


def test_icc_sre_into_the_zero_register_is_dropped(realm):
    _sysreg(realm, SRE, read=1, rt=31)
    assert realm.next_entry().gprs == {}


def test_a_write_of_icc_sre_is_ignored(realm):
    assert _sysreg(realm, SRE, read=0, value=1) is VcpuState.RUNNABLE
    assert realm.said == []


@pytest.mark.parametrize("rt", [0, 3])
def test_an_sgi_reaches_the_other_vcpu(realm, rt):
    realm.guest.vgic.set_online(1, True)
    irq = realm.guest.vgic.vcpus[1].irqs[5]
    assert _sysreg(realm, SGI1R, read=0, rt=rt, value=5 << 24 | 1 << 1) is VcpuState.YIELDED
    assert irq.latch


def test_icc_dir_deactivates(realm):
    irq = realm.guest.vgic.vcpus[0].irqs[9]
    irq.active = True
    irq.settle()
    assert _sysreg(realm, DIR, read=0, value=9) is VcpuState.RUNNABLE
    assert not irq.active


def test_icc_dir_of_an_interrupt_that_is_not_there_is_ignored(realm):
    assert _sysreg(realm, DIR, read=0, value=1019) is VcpuState.RUNNABLE
    assert realm.said == []


def test_icc_dir_of_a_hardware_interrupt_crashes_the_domain(realm, monkeypatch):
    ich = realm.host.board.cpu.ich
    real = realm.guest.vgic.sync_from_lrs

    def sync(vcpu, registers):
        real(vcpu, registers)
        ich.lr[3] = make_lr(40, 0xA0, pending=False, active=True) | 1 << 61

    monkeypatch.setattr(realm.guest.vgic, "sync_from_lrs", sync)
    _sysreg(realm, DIR, read=0, value=40)
    assert realm.said.pop(0) == (
        Level.GUEST_ERR, "d1v0 ARM CCA: ICC_DIR_EL1 on hw-backed vIRQ 40 is unsupported"
    )
    realm.host.log.pop(0)
    assert realm.crashed("unsupported ICC_DIR_EL1 access read=0 val=0x28")


@pytest.mark.parametrize(("register", "name"), [(DIR, "ICC_DIR_EL1"), (SGI1R, "ICC_SGI1R_EL1")])
def test_reading_a_write_only_register_crashes_the_domain(realm, register, name):
    _sysreg(realm, register, read=1, value=0x55)
    assert realm.crashed(f"unsupported {name} access read=1 val=0x55")


def test_another_register_crashes_the_domain(realm):
    _sysreg(realm, 0x3E_3016, read=0)
    assert realm.crashed("unsupported SYSREG ec=0x18 sysreg=0x3e3016")


# Exits that are not served.


@pytest.mark.parametrize(("fields", "message"), [
    ({"exit_reason": 0, "esr": EC_IABT << 26 | 7},
     f"unsupported REC sync exit ec=0x20 esr={EC_IABT << 26 | 7:#x}"),
    ({"exit_reason": 5, "imm": 0x12}, "Host call exits are unsupported (imm=0x12)"),
    ({"exit_reason": 6}, "SError exit from Realm REC"),
    ({"exit_reason": 7, "s2ap_base": 0x1000, "s2ap_top": 0x3000},
     "S2AP change exits are unsupported range=0x1000-0x3000"),
    ({"exit_reason": 8, "vdev_id_1": 1, "vdev_id_2": 2}, "VDEV request exits are unsupported id=0x1:0x2"),
    ({"exit_reason": 9, "dev_mem_base": 0x1000, "dev_mem_top": 0x2000, "dev_mem_pa": 0x9000},
     "VDEV mapping validation exits are unsupported range=0x1000-0x2000 pa=0x9000"),
    ({"exit_reason": 10, "vsmmu": 0x77}, "VSMMU command exits are unsupported vsmmu=0x77"),
    ({"exit_reason": 11}, "unknown REC exit reason 0xb"),
])
def test_an_exit_that_is_not_served_crashes_the_domain(realm, fields, message):
    assert realm.take(**fields) is VcpuState.PARKED
    assert realm.crashed(message)


# Entering.


def test_a_busy_entry_is_tried_again(realm):
    realm.replies[rmi.REC_ENTER] = [(Status.BUSY,), (Status.BUSY,)]
    assert realm.take(exit_reason=ExitReason.IRQ) is VcpuState.RUNNABLE
    assert len(realm.calls) == 3


@pytest.mark.parametrize(("x0", "message"), [
    (Status.ERROR_REALM, "RMI_REC_ENTER failed status=0x2 data=0x0"),
    (0x1203, "RMI_REC_ENTER failed status=0x3 data=0x12"),
    (Status.INCOMPLETE, "RMI_REC_ENTER failed status=0xd data=0x0"),
])
def test_a_refused_entry_crashes_the_domain(realm, x0, message):
    realm.replies[rmi.REC_ENTER] = [(x0,)]
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.crashed(message)


def test_a_realm_that_is_off_parks_its_other_vcpus(realm):
    def shut_down_meanwhile(fid, *args):
        realm.guest.is_shutting_down = True
        return (Status.ERROR_REALM, 0, 0, 0, 0)

    realm.vcpu._smc = shut_down_meanwhile
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.said == [
        (Level.GUEST_INFO, "d1v0 ARM CCA: Realm domain is shutting down; stopping vCPU")
    ]
    assert realm.guest.reasons == []


def test_a_domain_that_shuts_down_enters_no_vcpu(realm):
    realm.guest.is_shutting_down = True
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.calls == []


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda guest, records: records._root.__setitem__(2, 1), "entered Realm run loop for non-Realm vCPU"),
    (lambda guest, records: setattr(guest, "gic_version", 2), "only GICv3 Realms are supported"),
    (lambda guest, records: setattr(records.recs[0], "run", 0), "REC runtime state is not bound"),
    (lambda guest, records: setattr(records.recs[0], "object", ObjectState.ABSENT), "REC is not bound"),
])
def test_a_vcpu_that_is_not_ready_to_run_crashes_its_domain(host, spoil, message):
    realm = Realm(host)
    spoil(realm.guest, Records(host.ns, realm.guest.root_pa))
    realm.vcpu = bind_vcpus(realm.guest, host.board, realm.guest.root_pa, host.log)[0]
    assert realm.vcpu.run_once() is VcpuState.PARKED
    assert realm.crashed(message)


# Over the real RMM, with a scripted processing element.


def test_a_realm_writes_to_a_device_and_powers_itself_off_through_the_real_rmm(host):
    guest = host.guest()
    host.finalize(guest)
    device = Device()
    guest.mmio.add(DEVICE, 0x1000, "uart", device)
    first, second = bind_vcpus(guest, host.board, guest.root_pa, host.log)
    cpu = host.board.cpu
    ipa = DEVICE + 0x18 | ALIAS
    cpu.sync(EC_DABT << 26 | 1 << 25 | ISV | WORD | 5 << 16 | WRITE | 6, ipa & 0xFFF, ipa >> 8 & ~0xF,
             [0, 0, 0, 0, 0, 0x4B])
    cpu.sync(EC_DABT << 26 | 1 << 25 | ISV | WORD | 6 << 16 | 6, ipa & 0xFFF, ipa >> 8 & ~0xF)
    assert first.run_once() is VcpuState.RUNNABLE
    assert device.written == [(0x18, 4, 0x4B, 0)]
    assert first.run_once() is VcpuState.RUNNABLE
    cpu.smc([0xC400_0003, 1, 0x4000_1000, 7])
    assert first.run_once() is VcpuState.RUNNABLE
    assert second.state is VcpuState.RUNNABLE
    cpu.smc([0x8400_0008])
    assert first.run_once() is VcpuState.PARKED
    assert guest.reasons == [ShutdownReason.POWEROFF]
    assert second.run_once() is VcpuState.PARKED
    assert host.log.texts == ["ARM CCA: RMI configured"]


def test_a_protected_abort_crashes_through_the_real_rmm(host):
    guest = host.guest()
    host.finalize(guest)
    first = bind_vcpus(guest, host.board, guest.root_pa, host.log)[0]
    # A page of RAM that the host took away: DESTROYED, which the RMM brings to the host.
    assert host.smc(rmi.RTT_DATA_UNMAP, first.rd, 0x4000_2000, 0x4000_3000, 0, 0)[0] == 0
    host.board.cpu.sync(EC_DABT << 26 | 1 << 25 | ISV | WORD | 6, 0, 0x4000_2000 >> 8)
    assert first.run_once() is VcpuState.RUNNABLE
    assert first.run_once() is VcpuState.PARKED
    assert "d1v0 ARM CCA: RMI_REC_ENTER failed status=0x3 data=0x0" in host.log.texts
