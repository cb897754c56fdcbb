# Two commands on a machine with Python 3, its venv module and make:
#   make serve    a running server with the embedded defaults
#   make test     the whole suite
# For development:
#   make lint     ruff, and mypy in strict mode
#   make test-compiled    the suite once more, on the modules that mypyc compiles
#   make docs    build the documentation into docs/_build/html, and fail at any warning or broken link
#   make release-check    build sdist and wheel, and use the wheel with each Python that is here
#   make fuzz     search for faults with random input, FUZZ_SECONDS=60 for each fuzzer
#   make soak     open and lose many connections, and check that nothing is left
#   make chaos    break deliveries under load, and check that no message is lost; CHAOS="--delivery Relay" for less
#   make cluster  lose machines of a cluster under load, and check the same; CLUSTER="--only 'Redis killed'" for less
#   make workers  kill, reload and end workers under load, for longer than the suite does
#   make bench    measure the speed, and that of other servers; BENCH="--only 1k" for less, see benchmarks/README.rst
#   make bench-check    fail if the speed falls behind a recorded bar
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

.PHONY: serve test test-compiled lint docs release-check fuzz soak chaos workers cluster bench bench-check clean

# One stamp for each extra, so that the second run of a command installs nothing.
$(VENV)/.installed-%: setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

serve: $(VENV)/.installed
	$(BIN)/smtphooks

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --cov --cov-report=term

# In a copy, so that nothing compiled stands where the sources are edited.  What is left out looks at the sources, builds
# the package itself, measures, runs the programs of the documentation, which tests/real does with others, or tests what is
# around the connections, of which nothing is compiled: client, layers, stores, service and its workers.
UNCOMPILED = $(patsubst %,--ignore=tests/%,client command docs examples layers metrics service stores real/client \
    $(patsubst %,real/test_%.py,clamav draining opendkim postgresql rabbitmq rabbitmq_fixture redis relay rspamd s3 \
    scanners scanners_lost servers webhook) \
    $(patsubst %,test_%.py,benchmarks chaos client_lost cluster compiled contributing cuts fuzz layers packaging typing)) \
    '--ignore-glob=tests/real/test_workers*'

test-compiled: $(VENV)/.installed-test $(VENV)/.installed-dev
	rm -rf .compiled && mkdir .compiled && cp -R * .compiled
	cd .compiled && SMTPHOOKS_COMPILE=1 ../$(BIN)/python setup.py --quiet build_ext --inplace
	cd .compiled && PYTHONPATH=$(CURDIR)/.compiled ../$(BIN)/python -m pytest $(UNCOMPILED)

lint: $(VENV)/.installed-test $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html

release-check: $(VENV)/.installed-test $(VENV)/.installed-dev
	$(BIN)/python .ci/release_check.py $(DIST)

FUZZ_SECONDS ?= 60
FUZZ = -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 -artifact_prefix=.fuzz/

# The folder .fuzz keeps the corpus of each fuzzer, and any input that broke something.
fuzz: $(VENV)/.installed-test $(VENV)/.installed-fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/test_fuzz.py
	mkdir -p .fuzz/wire .fuzz/addresses
	$(BIN)/python fuzz/wire.py $(FUZZ) -dict=fuzz/wire.dict .fuzz/wire
	$(BIN)/python fuzz/addresses.py $(FUZZ) -dict=fuzz/addresses.dict .fuzz/addresses

soak: $(VENV)/.installed
	$(BIN)/python soak/run.py

chaos: $(VENV)/.installed-test
	$(BIN)/python -m chaos $(CHAOS)

cluster: $(VENV)/.installed-test
	$(BIN)/python -m cluster $(CLUSTER)

workers: $(VENV)/.installed-test
	SMTPHOOKS_LONG=1 $(BIN)/python -m pytest $(wildcard tests/real/test_workers*.py)

BENCH ?= --output docs/benchmarks

bench: $(VENV)/.installed $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(BENCH)
	$(BIN)/python -m benchmarks profile $(BENCH)
	$(BIN)/python -m benchmarks machine $(BENCH)

bench-check: $(VENV)/.installed $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks check

clean:
	rm -rf $(VENV) .bench .compiled .fuzz .mtas build dist docs/_build *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
