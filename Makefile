# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
# They need Python 3.11+ (name another with PYTHON=...) and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check bench conformance format clean

# The package alone: what a user installs.
$(VENV)/.installed: setup.cfg setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ollama-gate needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# With what the checks need.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/ollama-gate demo

test: $(VENV)/.installed-dev
	PATH="$(abspath $(BIN)):$$PATH" sh tests/check.sh

bench: $(VENV)/.installed
	$(BIN)/python bench/overhead.py

# A proxy against the Ollama behind it: make conformance STRAIGHT=http://… PROXIED=http://… [ARGS=…]
conformance: $(VENV)/.installed-dev
	$(BIN)/python -m tests.conformance $(STRAIGHT) $(PROXIED) $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
