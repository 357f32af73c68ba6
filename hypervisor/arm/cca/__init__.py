"""The host side of Arm CCA at NS-EL2: everything that Xen's Realm series does with RMI, as seen from the hypervisor.

Enter at :func:`hypervisor.arm.cca.bringup.bring_up` (once, when the daemon starts),
:func:`hypervisor.arm.cca.build.finalize` (a paused domain becomes a Realm),
:func:`hypervisor.arm.cca.rec_loop.bind_vcpus` (the vCPU loop) and
:func:`hypervisor.arm.cca.relinquish.relinquish` (teardown from the host's records alone).

What it needs of the rest of the hypervisor is declared in :mod:`hypervisor.arm.cca.ports`. The RMM is reached by SMC
and through Non-secure memory only; of the RMM's package this one imports the published ABI.
"""
