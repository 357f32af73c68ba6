"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def machines_of_a_module_are_gone_after_it() -> Iterator[None]:
    """A machine holds descriptors and mappings until the collector finds it; thousands of tests make thousands."""
    yield
    gc.collect()
