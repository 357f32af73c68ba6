"""Tests of the hypervisor write guest programs with the assembler of the machine's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "machine"))
