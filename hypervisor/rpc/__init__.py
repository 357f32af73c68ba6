"""The protocol between a toolstack and hypervisord: ZeroMQ frames of msgpack, the counterpart of domctls.

:mod:`hypervisor.rpc.messages` declares every request and answer, :mod:`hypervisor.rpc.client` calls them,
:mod:`hypervisor.rpc.endpoint` says where a daemon listens. A toolstack needs nothing else of the hypervisor.
"""
