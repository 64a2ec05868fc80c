# sdqueue: `make demo` shows it, `make test` checks it. Both set up .venv by themselves.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTEST_ARGS ?=
SEEDS ?= 1000
START ?= 0

# What make chaos does: CHAOS="kill_consumer random" chooses scenarios, SEED and SECONDS of load vary them.
CHAOS ?=
SEED ?= 1
SECONDS ?=
BROKER ?= rabbitmq

# What make producers does: PLATFORM="webchat openai" and POINTS="received random" choose rows, KILLS how often.
PLATFORM ?=
POINTS ?=
KILLS ?=
STORE ?= redis

# Workers that take whole files, the longest first, as tests/schedule.py says; WORKERS=1 asks for so many.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests start several hundred processes; each would compile the package anew. make clean removes what is kept.
unexport PYTHONDONTWRITEBYTECODE

# The oldest Python that is supported, and all later ones; hashes of the wheels of all platforms.
LOCK_ARGS ?=
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' $(LOCK_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format lock unit integration deploy matrix pythons chaos producers simulate servers venv clean

# SERVERS=trixie takes the servers of that release of Debian: RabbitMQ 4 and Valkey 8; bookworm has 3.10 and Redis 7.
ifneq ($(SERVERS),)
export SDQUEUE_TEST_SERVERS := $(SERVERS)
endif

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  CHAOS="kill_consumer random" SEED=7 SECONDS=60 BROKER=rabbitmq STORE=redis choose what make chaos does.'
	@echo '  PLATFORM="webchat openai" POINTS="received random" KILLS=3 SEED=7 choose what make producers does.'
	@echo '  MATRIX="trixie --short" goes to the matrix: only that release of Debian, only what tells a release apart.'
	@echo '  SERVERS=trixie, with any of them, takes RabbitMQ 4 and Valkey 8, as root from a folder that servers makes.'
	@echo '  PYTHON=python3.12 chooses the Python of a new $(VENV); PYTEST_ARGS="-k lease" goes to pytest.'
	@echo '  SDQUEUE_TEST_AMQP_URL and SDQUEUE_TEST_REDIS_URL name servers for the tests; without them, containers'
	@echo '  or private instances are started. On Debian as root, missing packages are installed.'

demo: $(VENV)/.package ## Play a conversation of three sessions, kill a consumer in it, and count what came of it
	$(BIN)/python examples/demo.py

test: lint types servers ## Lint, types and all tests but those on clusters, on real RabbitMQ and Redis
	$(PYTEST) -m 'not cluster and not engine' $(PYTEST_ARGS)
	@echo 'Not tried: clusters of RabbitMQ, and other releases of the servers: make matrix. Containers: make deploy.'

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(VENV)/.dev ## Make the image's locks anew, after a change of dependencies; LOCK_ARGS=--upgrade takes newer releases
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(LOCK) --extra image --output-file deploy/image/requirements.txt pyproject.toml
	$(LOCK) --output-file deploy/image/build.txt deploy/image/build.in

unit: $(VENV)/.dev ## The tests that need no server
	$(PYTEST) -m 'not rabbitmq and not redis and not engine' $(PYTEST_ARGS)

integration: servers ## The tests that need RabbitMQ or Redis
	$(PYTEST) -m '(rabbitmq or redis) and not cluster and not engine' $(PYTEST_ARGS)

deploy: $(VENV)/.dev ## The tests of what is in deploy/ that need a Docker engine: the image, compose
	$(BIN)/python -m pytest -m engine tests/deploy $(PYTEST_ARGS)

matrix: $(VENV)/.dev ## The tests with servers on RabbitMQ 3.10 and Redis 7, on RabbitMQ 4 and Valkey 8, and on clusters
	$(BIN)/python -m tests.servers.matrix $(MATRIX)

pythons: $(VENV)/.dev ## All tests without servers, and superdialog's with, on Python 3.13 of Debian trixie, as root
	$(BIN)/python -m tests.servers.pythons

chaos: servers ## Attack real consumers in every way of docs/guarantees.md, and check what came of it
	$(BIN)/python -m tests.chaos $(CHAOS) --seed $(SEED) --broker $(BROKER) --store $(STORE) \
		$(if $(SECONDS),--seconds $(SECONDS)) --markdown

producers: servers ## Kill real producers at every point on every platform, and check what came of it
	$(BIN)/python -m tests.producers.table $(PLATFORM) --seed $(SEED) --broker $(BROKER) --store $(STORE) \
		$(if $(POINTS),--points $(POINTS)) $(if $(KILLS),--kills $(KILLS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) --markdown

simulate: $(VENV)/.dev ## The consumer in made-up worlds, with killed processes and failing backends: make simulate SEEDS=5000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)

servers: $(VENV)/.dev ## See that the tests can have RabbitMQ and Redis; install them on Debian as root
	$(BIN)/python -m tests.servers.install

venv: $(VENV)/.dev ## Make .venv with everything for development

clean: ## Remove .venv and what tools have left
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that pip runs only when the dependencies may have changed.

$(VENV)/.package: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.package

# Debian's Python comes without ensurepip, which venv needs.
$(VENV)/.made:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; PYTHON=/path/to/python names one.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		test -e /etc/debian_version && command -v apt-get >/dev/null && test "$$(id -u)" = 0 || { \
			echo '$(PYTHON) has no venv. On Debian and Ubuntu, as root: apt-get install python3-venv' >&2; exit 1; }; \
		echo 'Installing python3-venv with apt-get.'; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 python3-venv >/dev/null; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
