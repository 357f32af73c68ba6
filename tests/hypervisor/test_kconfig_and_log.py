"""Build-time options and the hypervisor log."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.kconfig import Kconfig, KconfigError, load
from hypervisor.log import CAPACITY, INFO, HypervisorLog


def test_the_shipped_developer_configuration_has_realms_with_a_debug_console() -> None:
    assert load() == Kconfig(arm_cca=True, sbsa_vuart_console=True, arm_cca_realm_debug_vuart=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CONFIG_ARM_CCA=maybe", ":1: expected CONFIG_NAME=y or =n, found `CONFIG_ARM_CCA=maybe'"),
        ("\nCONFIG_ARM_CAC=y", ":2: unknown option CONFIG_ARM_CAC"),
        ("CONFIG_ARM_CCA_REALM_DEBUG_VUART=y", "depends on CONFIG_ARM_CCA and CONFIG_SBSA_VUART_CONSOLE"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.config"
    path.write_text(text)
    with pytest.raises(KconfigError) as refused:
        load(path)
    assert message in str(refused.value) and str(path) in str(refused.value)


def test_an_option_that_is_not_set_is_off(tmp_path: Path) -> None:
    path = tmp_path / "x.config"
    path.write_text("# a comment\nCONFIG_ARM_CCA=y\n# CONFIG_SBSA_VUART_CONSOLE is not set\n")
    assert load(path) == Kconfig(arm_cca=True)


def test_a_missing_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(KconfigError, match="cannot read configuration: No such file or directory"):
        load(tmp_path / "none.config")


def test_log_lines_have_xens_prefix_and_can_be_cleared() -> None:
    seen: list[str] = []
    log = HypervisorLog(seen.append)
    log.log(INFO, "ARM CCA: RMI configured")
    assert log.text(clear=True) == "(XEN) ARM CCA: RMI configured\n"
    assert log.text() == "" and seen == ["(XEN) ARM CCA: RMI configured"]


def test_the_log_is_bounded_and_says_what_it_dropped() -> None:
    log = HypervisorLog()
    for number in range(CAPACITY + 3):
        log.log(INFO, f"line {number}")
    lines = log.text().splitlines()
    assert lines[0] == "(XEN) *** 3 earlier lines dropped ***"
    assert lines[1] == "(XEN) line 3" and len(lines) == CAPACITY + 1
