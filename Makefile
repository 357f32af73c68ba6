# Everything runs from a virtual environment that the first target makes: python3, pip, make and gcc are all it needs.

VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
PYTHON3 ?= python3

.PHONY: help demo linux test lint unit e2e bench docs clean

help:
	@echo 'make demo    install, then run a small Realm and show its console'
	@echo 'make linux   fetch the kernel of Debian (arm64) and boot it as a Realm to a shell'
	@echo 'make test    everything CI runs: lint, types, import rules, unit and end-to-end tests'
	@echo 'make bench   the benchmarks and their figures'
	@echo 'make docs    the hypervisor guide as HTML, in build/docs'
	@echo 'make clean   remove the virtual environment and caches'

# --without-pip and pip's --python: works without the python3-venv package of Debian.
$(STAMP): pyproject.toml setup.py machine/cpu/native.c
	$(PYTHON3) -m venv --without-pip $(VENV)
	$(PYTHON3) -m pip --disable-pip-version-check --python $(PY) install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@examples/hello-realm/demo.sh $(VENV)/bin/xl

linux: $(STAMP)
	@$(PY) examples/linux/fetch.py
	@examples/linux/boot.sh $(VENV)/bin/xl

test: $(STAMP)
	tests/install-prerequisites.sh
	$(MAKE) lint unit e2e

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: $(STAMP)
	$(PY) -m pytest -q -m 'not e2e and not linux'

e2e: $(STAMP)
	$(PY) -m pytest -q -m 'e2e or linux'

bench: $(STAMP)
	$(PY) -m benchmarks

docs: $(STAMP)
	$(PYTHON3) -m pip --disable-pip-version-check --python $(PY) install --quiet --editable '.[docs]'
	$(PY) -m sphinx -W -q -b html docs/hypervisor-guide build/docs
	@echo 'build/docs/index.html'

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
