# Everything sets itself up: `make demo`, `make saml`, `make test`. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
SAML := .venv-saml
BENCH := .venv-bench
PIP := --quiet --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo saml test check soak matrix servers bench bench-pictures format clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/portal

saml: $(SAML)/.ready
	@sh tests/install_servers.sh xmlsec1
	$(SAML)/bin/python examples/saml

test: $(VENV)/.ready servers
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not soak" tests

soak: $(VENV)/.ready servers
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m soak tests

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -q tests/project/test_layers.py

# What needs no server, on every interpreter that is found.
matrix:
	PYTHON="$(PYTHON)" sh tests/matrix.sh

servers:
	@sh tests/install_servers.sh

# Everything beside everybody, in some minutes: tables, and build/bench/*.json.
bench: $(BENCH)/.ready servers
	$(BENCH)/bin/python -m benchmarks

# The last run becomes what README and its pictures show.
bench-pictures: $(VENV)/.ready
	$(BIN)/python benchmarks/pictures.py $(wildcard build/bench)

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) $(SAML) $(BENCH) benchmarks/node/node_modules .venv-matrix-* .mypy_cache .pytest_cache .ruff_cache .hypothesis

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

$(BENCH)/.ready: pyproject.toml benchmarks/requirements.txt benchmarks/node/package.json
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install $(PIP) --editable '.[postgresql,mariadb,redis,memcached]'
	$(BENCH)/bin/pip install $(PIP) --requirement benchmarks/requirements.txt
	sh benchmarks/install.sh
	touch $@
