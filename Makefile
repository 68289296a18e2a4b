# Everything sets itself up: `make demo`, `make flask`, `make fastapi`, `make saml`, `make test`. See
# README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
SAML := .venv-saml
DJANGO := .venv-django
BENCH := .venv-bench
FASTAPI := .venv-fastapi
PEERS := .venv-peers
SHOP := .venv-flask
PATHS := .venv-paths
BOUND := .venv-bound
DOCS := .venv-docs
PIP := --quiet --disable-pip-version-check
WORKERS ?= 2
PYTEST = -n $(WORKERS) --dist worksteal

.PHONY: demo bound flask django fastapi saml test test-all soak paths check check-style check-mypy \
	check-pyright check-project check-instructions docs release matrix servers peers bench bench-pictures format clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/portal

bound: $(BOUND)/.ready
	$(BOUND)/bin/python examples/bound

flask: $(SHOP)/.ready
	$(SHOP)/bin/python examples/flask

fastapi: $(FASTAPI)/.ready
	$(FASTAPI)/bin/python examples/fastapi

django: $(DJANGO)/.ready
	$(DJANGO)/bin/python examples/django

saml: $(SAML)/.ready
	@sh tests/install_servers.sh xmlsec1
	$(SAML)/bin/python examples/saml

# What needs nothing but Python, and the quick tests of those servers that are installed.
test: $(VENV)/.test
	$(BIN)/pytest $(PYTEST) -m "not slow and not soak" tests

# What `make test` leaves out: servers, browser, kills, and every property with all its examples.
# A server that is not installed is reported, or fails with REQUIRE_SERVERS=1. Half of the time these
# tests wait for servers and clocks, so that there is work for one more process than processors.
test-all: WORKERS = 3
test-all: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST) --hypothesis-profile=full \
		-m "(slow or server or hypothesis) and not soak" tests

# Long walks, thousands of kills, and histories: some hours.
soak: $(VENV)/.dev
	@sh tests/install_servers.sh firefox-esr
	$(BIN)/pytest $(PYTEST) --hypothesis-profile=full -m soak tests

# `sealedstate path` behind 40 stacks of proxies and servers, beside a plain loop, in some minutes.
paths: $(PATHS)/.ready
	@sh tests/install_servers.sh nginx haproxy varnish apache2 squid firefox-esr
	$(PATHS)/bin/pytest $(PYTEST) -m soak tests/paths

check: check-style check-mypy check-pyright check-project check-instructions

check-style: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

check-mypy: $(VENV)/.dev
	$(BIN)/mypy

check-pyright: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

check-project: $(VENV)/.dev
	$(BIN)/pytest -q -m "not slow and not server" tests/project

check-instructions: $(VENV)/.dev
	$(BIN)/python benchmarks/instructions.py

# The site, from the folder build/docs without a network. A warning is an error.
docs: $(DOCS)/.ready
	$(DOCS)/bin/sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

# A wheel and an sdist in dist/, once the owner's values are in release/owner.toml.
release: $(VENV)/.dev
	$(BIN)/python release/owner.py --check
	$(BIN)/python release/build.py

# What needs no server, on every interpreter that is found.
matrix:
	PYTHON="$(PYTHON)" sh tests/matrix.sh

# The servers and the browser that tests drive, by apt as root and by npm; elsewhere it says what is
# missing.
servers:
	@sh tests/install_servers.sh

# The tests of other projects on our sessions, from their sdists: a table, and each exception.
peers: $(PEERS)/.ready
	$(PEERS)/bin/python tests/peers

# Everything beside everybody, in some minutes: tables, and build/bench/*.json.
bench: $(BENCH)/.ready servers
	$(BENCH)/bin/python -m benchmarks

# The last run becomes what docs/benchmarks.md and its pictures show.
bench-pictures: $(VENV)/.dev
	$(BIN)/python benchmarks/pictures.py $(wildcard build/bench)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) $(SAML) $(SHOP) $(BOUND) $(DJANGO) $(FASTAPI) $(BENCH) $(PEERS) $(PATHS) $(DOCS) build/docs docs/api benchmarks/node/node_modules tests/node/node_modules .venv-matrix-* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# .dev installs more into the environment of .test. uWSGI comes as C.
$(VENV)/.test $(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP) --editable '.[$(subst .,,$(@F))]'
	@test $(@F) = .test || $(BIN)/pip install $(PIP) 'uwsgi>=2.0.27' || \
		echo "uWSGI was not built, which takes a C compiler: its tests are left out" >&2
	touch $@

$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install $(PIP) --editable '.[demo]'
	touch $@

$(BOUND)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BOUND)
	$(BOUND)/bin/pip install $(PIP) --editable '.[bound-example]'
	touch $@

$(DJANGO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DJANGO)
	$(DJANGO)/bin/pip install $(PIP) --editable '.[django-example]'
	touch $@

$(FASTAPI)/.ready: pyproject.toml
	$(PYTHON) -m venv $(FASTAPI)
	$(FASTAPI)/bin/pip install $(PIP) --editable '.[fastapi-example]'
	touch $@

$(SHOP)/.ready: pyproject.toml
	$(PYTHON) -m venv $(SHOP)
	$(SHOP)/bin/pip install $(PIP) --editable '.[flask-example]'
	touch $@

$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install $(PIP) --editable '.[docs]'
	touch $@

$(PEERS)/.ready: pyproject.toml tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install $(PIP) --editable '.[aiohttp,asgi,django,flask,litestar,pyramid,quart]' \
		--requirement tests/peers/requirements.txt
	touch $@

$(PATHS)/.ready: pyproject.toml tests/paths/requirements.txt
	$(PYTHON) -m venv $(PATHS)
	$(PATHS)/bin/pip install $(PIP) --editable '.[test]' --requirement tests/paths/requirements.txt
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
