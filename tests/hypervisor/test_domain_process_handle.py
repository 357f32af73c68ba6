"""The daemon's handle on a domain's process, with a real process at the other end."""

from __future__ import annotations

import asyncio

import pytest

from hypervisor import channel
from hypervisor.domain_process_handle import DomainProcessHandle
from machine.memory import PhysicalMemory


def test_a_process_that_cannot_be_sent_its_message_is_ended_and_not_left_waiting() -> None:
    memory = PhysicalMemory.create(16 << 20)

    async def life() -> list[int]:
        deaths: list[int] = []
        process = DomainProcessHandle(memory.fd, lambda message: None, lambda: None, deaths.append)
        process.send(channel.Pages(list(range(1 << 60, (1 << 60) + channel.MAX_PACKET))))
        await asyncio.wait_for(process.dead.wait(), 20)
        await asyncio.sleep(0)
        process.send(channel.Pause())  # to a dead process: nothing happens
        return deaths

    assert asyncio.run(life()) == [-9]


def test_a_process_that_does_not_understand_the_daemon_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files were updated while the daemon ran: the process is of another version, and must not wait for ever."""
    memory = PhysicalMemory.create(16 << 20)
    monkeypatch.setattr(channel, "encode", lambda message: b"\x81\xa2op\xa3new")

    async def life() -> list[channel.FromDomainMessage]:
        said: list[channel.FromDomainMessage] = []
        process = DomainProcessHandle(memory.fd, said.append, lambda: None, lambda status: None)
        process.send(channel.Pause())
        await asyncio.wait_for(process.dead.wait(), 20)
        return said

    (said,) = asyncio.run(life())
    assert isinstance(said, channel.Failed)
    assert said.message.startswith("domain process and hypervisord do not fit together, restart it: ")
