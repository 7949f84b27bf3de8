# All the set-up there is: `make demo` and `make test` work from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml constraints.txt hatch_build.py ptychopinn_plugin/host/shim.py $(wildcard ptychopinn_plugin/kernels/*.[ch])

# The other supported Ptychodus, in an environment of its own, from the built wheel.
OTHER := 1.6.0
OTHER_VENV := .venv-$(OTHER)
OTHER_STAMP := $(OTHER_VENV)/.installed
OTHER_TESTS := build/tests-$(OTHER)

# What users would pick instead, in an environment of its own; `make bench-peers PEERS=--quick`.
PEERS_VENV := .venv-peers
PEERS_STAMP := $(PEERS_VENV)/.installed
PEERS ?=

BACKEND_TESTS := tests/conformance tests/faults/test_killed_training.py tests/test_cycle.py tests/test_real_scan.py tests/host/test_end_to_end.py tests/test_network_helps.py

export QT_QPA_PLATFORM ?= offscreen

AUDIT_VENV := .venv-audit
# `make fuzz FUZZ='npz --inputs 1000'`; all of it, 100 000 inputs per reader, takes about an hour.
FUZZ ?=

.PHONY: venv demo test test-other lint fuzz audit bench bench-parity bench-limits bench-peers bench-shared screenshots qt-libraries clean
venv: $(STAMP)

$(STAMP): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,gui,dev]' tensorflow-cpu
	./.ci/qt-libraries $(BIN)/python
	touch $@

demo: $(STAMP)
	$(BIN)/ptychopinn-plugin demo --folder demo --json

# The frameworks never meet in one process: what runs a back end in its own runs once for each.
# Two test files at a time, each on one thread: most tests start programs or are short.
SIDE_BY_SIDE := -n 2 --dist loadfile
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)
	OMP_NUM_THREADS=1 PTYCHOPINN_TEST_BACKENDS=tensorflow $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(BACKEND_TESTS)

$(OTHER_STAMP): $(SOURCES)
	$(PYTHON) -m venv $(OTHER_VENV)
	$(OTHER_VENV)/bin/python -m pip install --quiet --upgrade pip
	grep -v '^ptychodus==' constraints.txt > $(OTHER_VENV)/constraints.txt
	$(OTHER_VENV)/bin/python -m pip install --quiet -c $(OTHER_VENV)/constraints.txt \
		'.[torch,gui,dev]' 'ptychodus[gui]==$(OTHER)'
	./.ci/qt-libraries $(OTHER_VENV)/bin/python
	touch $@

# The tests run from a copy, so that the installed wheel is tested and not the checkout.
test-other: $(OTHER_STAMP)
	$(OTHER_VENV)/bin/python -m pip install --quiet --no-deps --force-reinstall .
	rm -rf $(OTHER_TESTS)
	mkdir -p $(OTHER_TESTS)
	cp -r tests benchmarks pyproject.toml $(OTHER_TESTS)
	cd $(OTHER_TESTS) && $(CURDIR)/$(OTHER_VENV)/bin/python -m pytest $(SIDE_BY_SIDE) tests/host tests/worker \
		--ignore tests/host/test_contract_broken.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m fuzz --state build/fuzz $(FUZZ)

# Exit code 3 of the script, 2 of make: the audit could not be made, for want of a network, say.
audit: $(STAMP)
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet pip-audit || echo 'pip-audit did not install'
	$(BIN)/python tools/audit.py --auditor $(AUDIT_VENV)/bin/pip-audit

bench: $(STAMP)
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/autoencoder.py

bench-parity: $(STAMP)
	$(BIN)/python benchmarks/parity.py

# The benchmark says so and goes on with the others when pty-chi does not install.
$(PEERS_STAMP): $(SOURCES)
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[torch]' 'ptychi==2.1.*'
	touch $@

bench-limits: $(STAMP)
	$(BIN)/python benchmarks/large_scans.py
	$(BIN)/python benchmarks/large_scans.py --packed
	$(BIN)/python benchmarks/leaks.py

bench-peers: $(STAMP)
	$(MAKE) $(PEERS_STAMP) || echo 'pty-chi did not install'
	$(BIN)/python benchmarks/peers.py $(PEERS)

bench-shared: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python benchmarks/shared_scans.py

screenshots: $(STAMP)
	$(BIN)/python docs/make_screenshots.py

clean:
	rm -rf $(VENV) $(OTHER_VENV) $(AUDIT_VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
