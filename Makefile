# `make run` and `make test` need Linux and Python 3.11, nothing else: each makes .venv by itself.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test coverage lint checks fmt bench bench-scale soak requirements venv venv-dev clean

PY := .venv/bin/python

# A function of the shell, so that a missing Python is one clear line whatever else is on the PATH. The system's own comes
# first: distributions build theirs with profile-guided optimisation, which a paid call is a third cheaper for, and
# version managers do not. PYTHON=… names another.
find_python = python=; for candidate in $(PYTHON) /usr/bin/python3.11 python3.11 python3 python; do \
	if "$$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
		python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "error: Python 3.11 is needed and was not found on the PATH" >&2; exit 1; fi

help:
	@echo "make run           start everything on this machine (PORT= moves it), Ctrl-C stops it"
	@echo "make test          all checks and tests, on servers of their own"
	@echo "make coverage      the tests again, and what they leave unrun"
	@echo "make lint          the checks without the tests"
	@echo "make fmt           format the code"
	@echo "make bench         measure the gateway beside others, ten minutes; needs wrk, nginx-light, npm"
	@echo "make bench-scale   the same for longer, at more rates"
	@echo "make soak          full load for MINUTES=10 and a stop under it, SCHEDULES=2000 of faults; fails where anything is lost"
	@echo "make requirements  compile requirements*.in"
	@echo "make clean         remove .venv, var/ and caches"

venv:
	@$(find_python); "$$python" devstack/bootstrap.py requirements.txt

venv-dev:
	@$(find_python); "$$python" devstack/bootstrap.py requirements-dev.txt

run: venv
	@FOLLOW_PARENT=1 exec $(PY) -m devstack

PYTEST = pytest --numprocesses 2 --dist loadgroup

# Types are checked beside the tests, on the time that these leave: a quarter of it they wait.
test: checks
	@types=$$(mktemp); nice -n 10 $(PY) -m mypy >"$$types" 2>&1 & mypy=$$!; \
	trap 'kill $$mypy; rm -f "$$types"; exit 130' INT TERM; \
	$(PY) -m $(PYTEST); tests=$$?; wait $$mypy; checked=$$?; \
	cat "$$types"; rm -f "$$types"; exit $$((tests ? tests : checked))

# The same tests, two thirds more CPU in each process that is measured, and a failure below 90 %.
coverage: venv-dev
	rm -f .coverage .coverage.*
	$(PY) -m coverage run -m $(PYTEST)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

lint: checks
	$(PY) -m mypy

checks: venv-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports
	@# Its standard error tells of notes that a line of a longer statement did not need; findings are on the other.
	$(PY) -m bandit --quiet --configfile pyproject.toml --recursive . 2>/dev/null
	$(PY) -m devstack.vulnerabilities requirements-dev.txt

fmt: venv-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: venv-dev
	$(PY) -m bench
	$(PY) -m bench.admission
	$(PY) -m bench.drain

bench-scale: venv-dev
	$(PY) -m bench --scale
	$(PY) -m bench.exports 10000000
	$(PY) -m bench.rebuild 1000000
	$(PY) -m bench.drain 200000 1000000 20000000

MINUTES ?= 10
# Of faults, a second or two each.
SCHEDULES ?= 2000
# Some 42 requests each.
EXAMPLES ?= 600
soak: venv-dev
	$(PY) -m bench --soak --minutes $(MINUTES)
	$(PY) -m pytest -m soak
	ADMISSIONS=1000000 $(PY) -m pytest tests/quotas/test_many_at_once.py --timeout 3600
	SCHEDULES=$(SCHEDULES) FIRST_SEED=$$(date +%s) $(PY) -m pytest tests/schedules
	OPENAPI_EXAMPLES=$(EXAMPLES) OPENAPI_SEED=$$(date +%s) $(PY) -m pytest tests/live/test_openapi.py

# The machine's own pip settings are left out: hashes and versions come from the public index alone.
compile = env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null $(PY) -m piptools compile \
	--generate-hashes --allow-unsafe --strip-extras --no-header --quiet \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

requirements: venv-dev
	$(compile) --output-file requirements.txt requirements.in
	$(compile) --output-file requirements-dev.txt requirements-dev.in

clean:
	rm -rf .venv .venv.lock var .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
