# Two commands on a machine with Python 3, its venv module and make:
#   make serve    a running server with the embedded defaults
#   make test     the whole suite
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

.PHONY: serve test lint clean

# A stamp per extra: the second run of a command installs nothing.
$(VENV)/.installed-%: setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

serve: $(VENV)/.installed
	$(BIN)/twistd -n smtphooks

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --cov --cov-report=term

lint: $(VENV)/.installed-test $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
