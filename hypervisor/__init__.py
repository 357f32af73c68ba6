"""hypervisord: what stands for Xen at NS-EL2.

Enter at :mod:`hypervisor.daemon` (the process that owns the machine) and :mod:`hypervisor.domain_process` (one per
domain). Clients know only :mod:`hypervisor.rpc`.
"""
