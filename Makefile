# Everything a newcomer needs: `make dev` runs caledger, `make test` sets up and passes the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: dev setup tools check test test-slow bench lock clean

dev: $(STAMP)  ## set up, start nats-server and all workers of datacenter dc1
	exec $(BIN)/caledger dev

setup: $(STAMP)  ## set up only

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "caledger needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

check: $(STAMP)  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tools:  # what the tests compare with, from Debian's packages
	@for tool in certtool:gnutls-bin openssl:openssl ip:iproute2; do \
	    command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -q -y $$missing; \
	else echo "the tests need: apt install$$missing" >&2; exit 1; fi

test: $(STAMP) tools check  ## everything but the slow tests
	$(BIN)/pytest -q -m "not slow" -n 2 --dist loadgroup

test-slow: $(STAMP) tools  ## crashes, faults, clusters: about half an hour
	$(BIN)/pytest -q -m slow

bench: $(STAMP)  ## figures, as ratios to the machine's own limit
	$(BIN)/python -m tests.benchmarks.issuance
	$(BIN)/python -m tests.benchmarks.rotation

lock: $(STAMP)  ## write requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --all-extras --group dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
