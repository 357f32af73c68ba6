"""A host of its own for one measurement: fresh runtime and state directories, and no daemon in them at the start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from benchmarks.figure import CannotRun

SOURCE = Path(__file__).parents[1]
#: Seconds that `xl daemon stop` and `xl destroy` may take.
_STOP_TIMEOUT = 60


def xl_command() -> list[str]:
    """How to run xl: the one installed beside this interpreter. CannotRun without one."""
    installed = Path(sys.executable).with_name("xl")
    if installed.exists():
        return [str(installed)]
    if (SOURCE / "toolstack" / "__main__.py").exists():
        return [sys.executable, "-m", "toolstack"]
    raise CannotRun(f"xl is not installed beside {sys.executable}: run `make bench`, or pip install -e .")


class PrivateHost:
    """``environment`` makes xl use this host; leaving the context stops its daemon and removes its directories."""

    def __init__(self) -> None:
        self.xl = xl_command()
        self._directory = Path(tempfile.mkdtemp(prefix="xl-bench."))
        self.state = self._directory / "state"
        paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "XL_RUNTIME_DIR": str(self._directory / "run"),
            "XL_STATE_DIR": str(self.state),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        inherited = {name: value for name, value in os.environ.items() if name != "XL_NO_AUTOSTART"}
        self.environment: Mapping[str, str] = inherited | own

    def __enter__(self) -> PrivateHost:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # Its own exit status says only that there was none to stop.
        self.run("daemon", "stop")
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run xl to its end, without a terminal."""
        return subprocess.run(
            [*self.xl, *arguments],
            cwd=SOURCE,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STOP_TIMEOUT,
            check=False,
        )
