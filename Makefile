# Two commands do all the set-up: `make demo` and `make test`.  Both build .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compatibility mode, since the default editable install hides twisted/plugins.
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat
PACKAGING := setup.cfg pyproject.toml constraints.txt

# Tests start some hundred processes, and each would compile all of avinet anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test unit trial integration processes-1 processes-2 parts fuzz lint format coverage test-deps bench-env bench bench-config bench-logs bench-cluster faults figures lock clean

help:
	@echo "make demo [ARGS=--check]  run a controller, two service engines and live traffic on this machine"
	@echo "make test                 all tests, under pytest and trial"
	@echo "make fuzz [SECONDS=60]    fuzz the SSH packet codec and server, so long for each of four targets"
	@echo "make lint                 ruff, mypy --strict, import-linter"
	@echo "make test-deps            install the Debian packages that some tests need (as root)"
	@echo "make bench-env            what benchmarks need, into .venv"
	@echo "make bench [ARGS=--quick] the secure channel beside OpenSSH and AsyncSSH"
	@echo "make bench-config [ARGS=--quick] configuration: time to the last Ack, requests lost by changes, failover"
	@echo "make bench-logs [ARGS=--quick] request logs: moved, stored, asked, and agents killed meanwhile"
	@echo "make bench-cluster [ARGS=--quick] three controllers: after the leader's end, a follower's, memory, writes"
	@echo "make faults [ARGS=--quick] three controllers killed, frozen, parted (as root): what holds afterwards"
	@echo "make figures              measure and draw what docs/performance.md shows"

$(VENV)/pip.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "avinet needs Python 3.11 or later; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run.stamp: $(VENV)/pip.stamp $(PACKAGING)
	$(INSTALL) -e '.[envoy]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp $(PACKAGING)
	$(INSTALL) -e '.[dev]'
	touch $@

# exec: make hands SIGTERM on and is gone; one process is left to take it.
demo: $(VENV)/run.stamp
	@exec $(BIN)/avinet demo $(ARGS)

# Side by side: tests of real processes mostly wait, unit tests compute.
test: $(VENV)/dev.stamp
	$(MAKE) --no-print-directory -j4 --output-sync=line processes-1 processes-2 parts trial ARGS="$(ARGS)"

unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/unit $(ARGS)

trial: unit
	cd $(VENV) && ../$(BIN)/python -m twisted.trial --reporter=summary tests.unit

integration: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/integration $(ARGS)

# Whole fleets, in two halves that take equally long.
processes-1: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/integration/test_processes_[a-k]*.py $(ARGS)

processes-2: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/integration/test_processes_[l-z]*.py $(ARGS)

# Whatever else needs a reactor, Envoy or OpenSSH.
parts: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/integration --ignore-glob='*/test_processes_*.py' $(ARGS)

# atheris has no wheels for some versions of Python: the targets say that they skip.
fuzz: SECONDS ?= 60
fuzz: $(VENV)/dev.stamp
	$(INSTALL) -e '.[dev,fuzz]' || echo "no atheris for this Python" >&2
	set -e; for target in codec stranger login engine; do $(BIN)/python -m tests.fuzz.ssh $$target $(SECONDS); done

coverage: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-deps:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openssh-server openssh-client curl lsof etcd-server etcd-client iproute2 nftables

$(VENV)/bench.stamp: $(VENV)/dev.stamp $(PACKAGING)
	$(INSTALL) -e '.[dev,bench]'
	touch $@

bench-env: $(VENV)/bench.stamp

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.channel $(ARGS)

bench-config: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.config $(ARGS)

bench-logs: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.logs $(ARGS)

bench-cluster: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.cluster $(ARGS)

# With nothing but what the tests need.
faults: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.faults $(ARGS)

figures: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.plots $(ARGS)

lock: $(VENV)/dev.stamp
	$(BIN)/python -m pip install -q -U --upgrade-strategy eager --config-settings editable_mode=compat -e '.[dev,bench]'
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
