"""Sphinx configuration of the hypervisor guide: ``sphinx-build docs/hypervisor-guide OUTPUT``."""

project = "xl-realm hypervisor guide"
html_theme = "alabaster"
