# Everything that people and CI do here. `make` alone lists it. The two that matter: make demo, make test.
.DEFAULT_GOAL := help
.PHONY: help demo test check test-fast test-docker test-netem test-long bench image docker-start docker-stop clean

PYTHON := .venv/bin/python
# A Docker daemon that has to be started by hand for a target ends with it.
WITH_DOCKER := images/docker-engine run
FAST := not docker and not root and not netem and not mpi and not browser

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## set everything up, then train on four ranks over a network that loses one packet in ten
	@images/venv host
	@$(WITH_DOCKER) .venv/bin/testbed up topologies/quickstart.yaml

test: ## set everything up, then run all tests (as root the most of them)
	@images/venv all
	@images/test-tools guest
	@images/test-tools browser
	@$(WITH_DOCKER) sh -c '.venv/bin/testbed image build && exec $(PYTHON) -m pytest'

check: ## format, lint, types, import arrows and the fast tests: before every commit
	@images/venv all
	@.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@$(PYTHON) -m pytest -q -n auto -m "$(FAST)"

test-fast: ## the tests that need neither Docker nor root nor mpirun
	@images/venv all
	@$(PYTHON) -m pytest -q -n auto -m "$(FAST)"

test-docker: ## the tests that need Docker
	@images/venv all
	@$(WITH_DOCKER) sh -c '.venv/bin/testbed image build && exec $(PYTHON) -m pytest -m docker'

test-netem: ## the tests that need sch_netem; a guest kernel runs them where this one has none
	@images/venv all
	@images/test-tools guest
	@$(WITH_DOCKER) sh -c '.venv/bin/testbed image build && exec $(PYTHON) -m pytest -m netem'

test-long: ## agreement on 50 000 random schedules, where `make test` has 2 000, and 10⁶ reads of a register
	@images/venv all
	@TESTBED_SCHEDULES=50000 TESTBED_READS=1000000 $(PYTHON) -m pytest -q --timeout=7200 tests/test_mdaa.py tests/test_registers.py

bench: ## how fast things are here: each tests/bench_*.py in turn
	@images/venv all
	@images/test-tools guest
	@$(WITH_DOCKER) sh -c 'for file in tests/bench_*.py; do \
		printf "\n== %s\n" "$$file"; $(PYTHON) "$$file" || echo "(it ended with status $$?)"; done'
	@printf '\n== %s\n' 'tests/bench_network.py of 16 nodes on netem, in a guest kernel'
	@$(PYTHON) -m tests.guest -- $(PYTHON) tests/bench_network.py 16

image: ## build the images now (up builds them when needed)
	@images/venv host
	@$(WITH_DOCKER) .venv/bin/testbed image build

docker-start: ## start a Docker daemon that stays, where none answers
	@images/docker-engine start

docker-stop: ## stop the daemon that docker-start started, and no other
	@images/docker-engine stop

clean: ## remove our images, wheels, caches and the virtual environment; keeps runs/
	@if [ -x .venv/bin/testbed ]; then .venv/bin/testbed image rm --all || echo "its images stay"; fi
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	@find testbed tests -name __pycache__ -prune -exec rm -rf {} +
