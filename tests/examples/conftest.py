"""Makes the example's scripts importable; they are programs, not part of a package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "linux"))
