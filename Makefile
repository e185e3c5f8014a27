# The contract of the repository: setup, demo, test, check, bench.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.complete
TESTS  := $(VENV)/.complete-tests
FUZZER := $(VENV)/.complete-fuzz

# Seconds of each target.
FUZZ_SECONDS ?= 60

.PHONY: setup demo test check bench format clean system fuzz fuzz-coverage fuzz-plants

setup: $(STAMP)

# pip brings only what pyproject.toml declares; the system packages (libfuse3, python3-venv) are the script's.
$(STAMP): pyproject.toml scripts/build_native.py $(wildcard src/native/*)
	@scripts/install-system-packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing the Python packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

$(TESTS): $(STAMP)
	@echo "setup: installing what only the tests run"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group test
	@touch $@

system:
	@scripts/install-system-packages

demo: setup system
	$(BIN)/mdev-user demo

test: setup $(TESTS)
	@scripts/install-system-packages test
	@$(BIN)/python scripts/build_native.py
	$(BIN)/python -m mdev_user.guests
	$(BIN)/python tests/tools/openstack.py
	MDEV_USER_REQUIRE_CORE=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src tests
	$(BIN)/lint-imports
	$(BIN)/vulture

bench: setup
	@scripts/install-system-packages bench
	@$(BIN)/python scripts/build_native.py
	$(BIN)/python bench/run.py

$(FUZZER): $(STAMP)
	@echo "setup: installing the fuzzer"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@touch $@

fuzz: setup $(FUZZER)
	cd tests && ../$(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS) $(TARGETS)

# Which branches the inputs that `make fuzz` has kept, and the seeds, reach.
fuzz-coverage: setup $(FUZZER)
	cd tests && ../$(BIN)/python -m fuzz.reached

# Every planted fault has to be found; prints how long each took.
fuzz-plants: setup $(FUZZER)
	cd tests && ../$(BIN)/python -m fuzz.measure

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
