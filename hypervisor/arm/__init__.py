"""What an Arm domain sees of its machine besides memory: interrupt controller, timers, PSCI, emulated devices.

Enter at :class:`hypervisor.arm.vgic_v3.VgicV3` (interrupts), :class:`hypervisor.arm.vtimer.VcpuTimers` (timers of one
vCPU), :class:`hypervisor.arm.mmio.MmioMap` (emulated address ranges) and :mod:`hypervisor.arm.vpsci` (PSCI tables). The
host side of Realms lives in the package ``cca`` below.
"""
