# Everything sets itself up: `make demo`, `make saml`, `make test`. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
SAML := .venv-saml
PIP := --quiet --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo saml test check soak matrix servers format clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/portal

saml: $(SAML)/.ready
	@sh tests/install_servers.sh xmlsec1
	$(SAML)/bin/python examples/saml

test: $(VENV)/.ready servers
	$(BIN)/pytest -n $(WORKERS) -m "not soak" tests

soak: $(VENV)/.ready servers
	$(BIN)/pytest -n $(WORKERS) -m soak tests

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -q tests/test_floors.py

# What needs no server, on every interpreter that is found.
matrix:
	PYTHON="$(PYTHON)" sh tests/matrix.sh

servers:
	@sh tests/install_servers.sh

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) $(SAML) .venv-matrix-* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP) --editable '.[dev]'
	touch $@

$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install $(PIP) --editable '.[demo]'
	touch $@

$(SAML)/.ready: pyproject.toml
	$(PYTHON) -m venv $(SAML)
	$(SAML)/bin/pip install $(PIP) --editable '.[saml-example]'
	touch $@
