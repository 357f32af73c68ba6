"""Replay recorded RMI traces on a fresh machine and report every difference: ``python -m rmm.replay FILE...``.

A file is JSON (or JSON in xz) of one of three shapes: ``vectors`` or ``traces`` (each entry with its ``commands`` or
``steps``), or ``fixtures`` and ``cases`` (each case plays its fixture's steps, then its own). Steps, by ``op``:

================================  ====================================================================================
``smc``                           an RMI command: ``fid``, ``args``, expected ``ret`` (x0..x4); for REC_ENTER also
                                  ``rec_exit`` (fields of RmiRecExit) and ``realm_saw`` (X0.. after each of its calls)
``w64`` ``w8`` ``fill``           the host writes memory: words, bytes, ``len`` times ``byte``
``lin_u32le``                     u32 word i of the range = (mul * i + add) mod 2^32
``read64`` ``read8``              the host reads memory: ``values``
``realm_smc``                     the Realm loads X0.. and makes an SMC at the next REC_ENTER
``realm_sync_exception``          the Realm takes an exception (``esr``, ``far``, ``hpfar``) with X0.. loaded
``realm_irq`` ``realm_fiq``       an interrupt is taken
``whitebox_measurement``          measurement ``slot`` of a realm, 64 bytes
``whitebox_granule``              [state, reference count] of a granule (the count is not a notion of this RMM)
``attestation_token``             a token: its bytes depend on keys and are not compared
================================  ====================================================================================

Enter at :func:`replay_file`; :class:`Replay` plays one case. The RMM is booted with the pace and options of the TF-RMM
build that the recorded vectors come from (:data:`rmm.options.TF_RMM`), and the processing element is a scripted one.
"""

from __future__ import annotations

import json
import lzma
import multiprocessing
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from machine.board import Board
from machine.cpu.scripted import ScriptedCpu
from machine.memory import DRAM_BASE, GRANULE_SIZE, MemoryFault, PhysicalMemory
from rmm.abi.rmi import REC_ENTER, describe
from rmm.abi.structures import RecRun
from rmm.granules import GranuleState
from rmm.monitor import Monitor, boot
from rmm.options import TF_RMM

#: DRAM of the machine that the vectors were recorded on.
DRAM_SIZE = 0x2000_0000
#: Cases that one worker process replays before it is replaced: a machine's descriptors live as long as its process.
_CASES_PER_WORKER = 64
#: Environment of a recording that was an option of the recorded RMM, and the boot options that it means.
_ENVIRONMENT = {"ORACLE_BPS": ("num_bps", "num_wps")}
#: rec_exit names that differ from those of RmiRecRun.
_EXIT_FIELDS = {"reason": "exit_reason", "gprs": "exit_gprs"}
_EXIT_IGNORED = frozenset({"name"})


class ReplayError(Exception):
    """Raised when a file is not a trace: unknown shape, unknown operation, missing field. The text says where."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One deviation: where in which case, what (a register, a field, an address), expected and found, as text."""

    case: str
    step: int
    operation: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.case}: step {self.step} ({self.operation}): {self.what}: "
            f"expected {self.expected}, found {self.found}"
        )


@dataclass(slots=True)
class Case:
    """A named list of steps, and the boot options that its recording needs besides the common ones."""

    name: str
    steps: list[dict[str, Any]]
    options: dict[str, int | bool] = field(default_factory=dict)


def _number(value: int | str) -> int:
    """A number of a trace: an integer, or text as C writes it; a negative one (``0x-1``) is its two's complement."""
    number = value if isinstance(value, int) else int(value.replace("0x-", "-0x"), 0)
    return number & 0xFFFF_FFFF_FFFF_FFFF


def _numbers(values: Sequence[int | str]) -> list[int]:
    return [_number(value) for value in values]


def load(path: Path) -> list[Case]:
    """The cases of a trace file; ReplayError when it is not one. Entries without steps do not count."""
    try:
        content = path.read_bytes()
        document = json.loads(lzma.decompress(content) if path.suffix == ".xz" else content)
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise ReplayError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ReplayError(f"{path}: not a JSON object")
    cases: list[Case] = []
    try:
        for entry in document.get("vectors", ()) or document.get("traces", ()):
            steps = entry.get("commands", entry.get("steps"))
            if steps is not None:
                cases.append(Case(entry["name"], steps, _boot_options(entry.get("env", {}))))
        fixtures = document.get("fixtures", {})
        for entry in document.get("cases", ()):
            before = fixtures[entry["fixture"]] if "fixture" in entry else []
            cases.append(Case(entry["name"], before + entry["steps"], _boot_options(entry.get("env", {}))))
    except (KeyError, TypeError, AttributeError) as error:
        raise ReplayError(f"{path}: case {len(cases) + 1}: {error!r}") from error
    if not cases:
        raise ReplayError(f"{path}: no vectors, traces or cases in it")
    return cases


def _boot_options(environment: dict[str, str]) -> dict[str, int | bool]:
    return {option: int(value) for name, value in environment.items() for option in _ENVIRONMENT[name]}


class Replay:
    """One case on a fresh machine."""

    def __init__(self, case: Case, **options: int | bool) -> None:
        self.case = case
        self.cpu = ScriptedCpu()
        self.board = Board(PhysicalMemory.create(DRAM_SIZE), self.cpu)
        self.board.smc = boot(self.board, **{**TF_RMM, **case.options, **options})
        monitor = getattr(self.board.smc, "__self__", None)
        assert isinstance(monitor, Monitor)
        self.monitor = monitor
        self.differences: list[Difference] = []
        self._step = 0
        self._operation = ""

    def run(self) -> list[Difference]:
        """Play all steps. An exception in the RMM ends the case and is a difference; ReplayError for a bad trace."""
        for number, step in enumerate(self.case.steps, 1):
            self._step = number
            self._operation = step.get("cmd") or str(step.get("op"))
            operation = _OPERATIONS.get(step.get("op", ""))
            if operation is None:
                raise ReplayError(f"{self.case.name}: step {self._step}: unknown op {step.get('op')!r}")
            try:
                operation(self, step)
            except KeyError as error:
                raise ReplayError(f"{self.case.name}: step {self._step}: no {error} in {self._operation}") from error
            except MemoryFault as fault:
                self._differ("memory access", "done", str(fault))
            except Exception as error:
                self._differ("outcome", "an answer", f"{type(error).__name__}: {error}")
                break
        return self.differences

    def _differ(self, what: str, expected: str, found: str) -> None:
        self.differences.append(
            Difference(self.case.name, self._step, self._operation, what, expected, found)
        )

    def _compare(self, what: str, expected: int, found: int) -> None:
        if expected != found:
            self._differ(what, f"{expected:#x}", f"{found:#x}")

    # Commands.

    def smc(self, step: dict[str, Any]) -> None:
        """An RMI command."""
        fid, args = _number(step["fid"]), _numbers(step["args"])
        found = self.board.smc(fid, *args)
        for n, (want, got) in enumerate(zip(_numbers(step["ret"]), found, strict=False)):
            if n == 0 and want != got:
                self._differ("x0", f"{want:#x} {describe(want)}", f"{got:#x} {describe(got)}")
            else:
                self._compare(f"x{n}", want, got)
        if fid != REC_ENTER or found[0]:
            return
        if "rec_exit" in step:
            self._compare_exit(args[1], step["rec_exit"])
        saw = self.cpu.take_saw()
        expected = step.get("realm_saw", [])
        self._compare("number of calls that returned to the Realm", len(expected), len(saw))
        for call, (wanted, registers) in enumerate(zip(expected, saw, strict=False), 1):
            for n, (text, have) in enumerate(zip(wanted, registers, strict=False)):
                self._compare(f"X{n} that the Realm saw after call {call}", int(text, 16), have)

    def _compare_exit(self, run: int, expected: dict[str, Any]) -> None:
        page = self.board.ns.read(run, RecRun.SIZE)
        for name, want in expected.items():
            if name in _EXIT_IGNORED:
                continue
            got = RecRun.FIELDS[_EXIT_FIELDS.get(name, name)].read(page)
            if isinstance(want, list):
                for n, (one, other) in enumerate(zip(_numbers(want), got, strict=True)):
                    self._compare(f"exit {name}[{n}]", one, other)
            else:
                self._compare(f"exit {name}", _number(want), got)

    # What the host does to memory.

    def write_words(self, step: dict[str, Any]) -> None:
        """64-bit words."""
        values = _numbers(step["vals"])
        self.board.ns.write(_number(step["addr"]), struct.pack(f"<{len(values)}Q", *values))

    def write_bytes(self, step: dict[str, Any]) -> None:
        """Single bytes."""
        self.board.ns.write(_number(step["addr"]), bytes(_numbers(step["vals"])))

    def fill(self, step: dict[str, Any]) -> None:
        """A range of one byte."""
        self.board.ns.write(_number(step["addr"]), bytes([_number(step["byte"])]) * _number(step["len"]))

    def linear(self, step: dict[str, Any]) -> None:
        """A range of words in arithmetic progression."""
        mul, add, count = _number(step["mul"]), _number(step["add"]), _number(step["len"]) // 4
        words = ((mul * n + add) & 0xFFFF_FFFF for n in range(count))
        self.board.ns.write(_number(step["addr"]), struct.pack(f"<{count}I", *words))

    def read_words(self, step: dict[str, Any]) -> None:
        """Compare 64-bit words."""
        address, wanted = _number(step["addr"]), _numbers(step["values"])
        found = struct.unpack(f"<{len(wanted)}Q", self.board.ns.read(address, 8 * len(wanted)))
        for n, (want, got) in enumerate(zip(wanted, found, strict=True)):
            self._compare(f"word at {address + 8 * n:#x}", want, got)

    def read_bytes(self, step: dict[str, Any]) -> None:
        """Compare bytes."""
        address, wanted = _number(step["addr"]), _numbers(step["values"])
        for n, (want, got) in enumerate(zip(wanted, self.board.ns.read(address, len(wanted)), strict=True)):
            self._compare(f"byte at {address + n:#x}", want, got)

    # What the Realm does next.

    def realm_smc(self, step: dict[str, Any]) -> None:
        """A call."""
        self.cpu.smc(_numbers(step["regs"]))

    def realm_exception(self, step: dict[str, Any]) -> None:
        """An exception to EL2."""
        self.cpu.sync(_number(step["esr"]), _number(step["far"]), _number(step["hpfar"]), _numbers(step["regs"]))

    def realm_irq(self, step: dict[str, Any]) -> None:
        """A physical IRQ."""
        self.cpu.irq()

    def realm_fiq(self, step: dict[str, Any]) -> None:
        """A physical FIQ."""
        self.cpu.fiq()

    # What an outsider does not see.

    def measurement(self, step: dict[str, Any]) -> None:
        """A measurement slot of a realm."""
        realm = self.monitor.realm(_number(step["rd"]))
        found = realm.measurement(step["slot"]).hex() if realm else "no realm"
        if found != step["value"]:
            self._differ(f"measurement {step['slot']}", step["value"], found)

    def granule(self, step: dict[str, Any]) -> None:
        """A granule's state."""
        address, expected = _number(step["addr"]), step["state"][0]
        is_granule = DRAM_BASE <= address < self.board.memory.dram_top and not address & (GRANULE_SIZE - 1)
        found = self.monitor.granules.state(address).name if is_granule else "none"
        if _GRANULE_STATES.get(expected, expected) != found:
            self._differ(f"state of granule {address:#x}", expected, found)

    def token(self, step: dict[str, Any]) -> None:
        """Nothing to compare."""


#: Granule state names of the recordings that differ from ours.
_GRANULE_STATES = {"NS": GranuleState.UNDELEGATED.name}

_OPERATIONS: dict[str, Callable[[Replay, dict[str, Any]], None]] = {
    "smc": Replay.smc,
    "w64": Replay.write_words,
    "w8": Replay.write_bytes,
    "fill": Replay.fill,
    "lin": Replay.linear,
    "lin_u32le": Replay.linear,
    "read": Replay.read_words,
    "read64": Replay.read_words,
    "read8": Replay.read_bytes,
    "realm_smc": Replay.realm_smc,
    "realm_sync_exception": Replay.realm_exception,
    "realm_irq": Replay.realm_irq,
    "realm_fiq": Replay.realm_fiq,
    "whitebox_measurement": Replay.measurement,
    "whitebox_granule": Replay.granule,
    "attestation_token": Replay.token,
}


def replay_case(case: Case, **options: int | bool) -> list[Difference]:
    """Play one case in this process."""
    return Replay(case, **options).run()


def _replay_job(job: tuple[Case, dict[str, int | bool]]) -> tuple[str, list[Difference]]:
    case, options = job
    return case.name, replay_case(case, **options)


def replay_file(path: Path, **options: int | bool) -> Iterator[tuple[str, list[Difference]]]:
    """Play all cases of a file, in worker processes: (name, differences) of each, in order.

    ReplayError as in :func:`load`, and for an operation that is none.
    """
    jobs = [(case, options) for case in load(path)]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=_CASES_PER_WORKER) as pool:
        yield from pool.imap(_replay_job, jobs)


def load_known(path: Path) -> dict[str, str]:
    """A list of known differences: JSON object of case names and reasons. ReplayError when it is not that."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReplayError(f"{path}: {error}") from error
    if not isinstance(known, dict) or not all(isinstance(reason, str) and reason for reason in known.values()):
        raise ReplayError(f"{path}: not an object of case names with a reason each")
    return known


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--range-step", type=click.IntRange(1), help="Granules that one GRANULE_RANGE_* call converts at most.")
@click.option("--case", "only", multiple=True, help="Replay the case of this name only (may be repeated).")
@click.option(
    "--known",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON object of cases that are known to differ, each with its reason: reported, but not a failure.",
)
def main(files: tuple[Path, ...], range_step: int | None, only: tuple[str, ...], known: Path | None) -> None:
    """Replay RMI trace FILES on a fresh machine each case, and report each difference.

    Exits with 1 when a case differs that is not listed as known, or when one is listed that agrees.
    """
    options: dict[str, int | bool] = {} if range_step is None else {"range_granules": range_step}
    agree = total = 0
    failed = False
    try:
        expected = load_known(known) if known else {}
        for path in files:
            for name, differences in replay_file(path, **options):
                if only and name not in only:
                    continue
                total += 1
                agree += not differences
                for difference in differences:
                    click.echo(f"{path}: {difference}")
                if differences and name in expected:
                    click.echo(f"{path}: {name}: known: {expected[name]}")
                elif name in expected:
                    click.echo(f"{path}: {name}: listed as known to differ, but agrees")
                failed |= bool(differences) != (name in expected)
    except ReplayError as error:
        click.echo(f"replay: {error}", err=True)
        sys.exit(2)
    click.echo(f"{agree} of {total} agree")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
