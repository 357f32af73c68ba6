"""Machines for the tests of the CCA host side: one with the real RMM, one with a double."""

from __future__ import annotations

import pytest
from cca_host import Host
from rmm_double import RmmDouble


@pytest.fixture
def host() -> Host:
    """A machine with the RMM of this project, brought up."""
    machine = Host(firmware="rmm.monitor")
    machine.bring_up()
    assert machine.cca.available
    return machine


@pytest.fixture
def bare() -> Host:
    """A machine whose firmware is a double that answers from a table."""
    machine = Host()
    machine.smc = RmmDouble(machine.memory)
    return machine
