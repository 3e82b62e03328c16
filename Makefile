# make serve                     serve what model_manifest.toml names
# make serve MODEL=path.gguf     serve that file; ARGS="--port 9000 …" adds flags of `llamahost serve`
# make serve MODEL=OWNER/NAME    serve that one of Hugging Face, as Qwen/Qwen3-8B-GGUF; it is fetched first
# make pull                      fetch what model_manifest.toml takes from there; make pull MODEL=OWNER/NAME that one
# make test                      the tests, in a process a core (WORKERS=2); make test-slow: the slow ones too, at length
# make test-clients              other makers' clients against a real server, in an environment of their own
# make check                     format, lint and types
# make bench MODEL=path.gguf     measure; ARGS="…" adds flags of `llamahost bench`
# Every target does the set-up that it needs, in .venv, and nothing outside this folder.

PYTHON ?= python3
VENV ?= .venv
MODEL ?=
ARGS ?=
WORKERS ?= auto
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help serve pull test test-slow test-clients check bench clean

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/installed: pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py --venv $(VENV)
	@touch $@

$(VENV)/installed-dev: pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py --venv $(VENV) --extras dev
	@touch $@ $(VENV)/installed

$(VENV)-clients/installed: pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py --venv $(VENV)-clients --extras dev,clients
	@$(VENV)-clients/bin/python -m pip install --quiet --no-deps 'litellm>=1.106,<2'
	@touch $@

serve: $(VENV)/installed
	@exec $(BIN)/llamahost serve $(MODEL) $(ARGS)

pull: $(VENV)/installed
	@exec $(BIN)/llamahost pull $(MODEL) $(ARGS)

## Bytecode is kept even where the environment says not to: each of the tests' processes would compile everything anew.
test: $(VENV)/installed-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

## One after the other: many of them start servers and measure time.
test-slow: $(VENV)/installed-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m "slow or not slow" --hypothesis-profile=long

test-clients: $(VENV)-clients/installed
	$(VENV)-clients/bin/python -m pytest -m slow -rs tests/clients

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tools/*.py
	$(BIN)/mypy -p tools.soak

bench: $(VENV)/installed-dev
	@exec $(BIN)/llamahost bench $(if $(MODEL),--model $(MODEL)) $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis
