# Every target works on a fresh clone: what it needs is installed into .venv first, once.
#   make demo    make test    make check          and: make help

PYTHON   ?= python3
PIP_ARGS ?=
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST   := $(BIN)/python -m pytest
PEERS    := .peers
PEERS_PIP := $(PEERS)/venv/bin/python -m pip -qq --disable-pip-version-check
QUESTION ?= What is 347 * 86?
OPTIONS  ?=
# What llama.cpp is compiled with. Its products with Intel's units for matrices (AMX) end the process, in the release that is
# compared with: left out, it is as quick as AVX-512 allows.
NATIVE   := -DGGML_NATIVE=ON $(shell grep -qs amx_int8 /proc/cpuinfo && echo -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-long check format docs capture bench bench-gpu peers llama-server pocket pocket-moe pocket-eval verify-real dist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=python3.12 picks the interpreter; PIP_ARGS=\"...\" goes to every pip install."

setup: $(VENV)/.dev  ## .venv with everything that tests and checks need

demo: $(VENV)/.runtime  ## ask the model that ships inside the package
	@echo '$$ pureqwen generate --show-thinking "$(QUESTION)"'
	@# So small a model computes fastest on one thread; a second one only waits, for seconds where cores are busy.
	@OMP_NUM_THREADS=1 $(BIN)/pureqwen generate --show-thinking "$(QUESTION)"

serve: $(VENV)/.serve  ## the API of OpenAI and Anthropic over the bundled model; OPTIONS="--port 9000" go to it
	@# As for the demo: so small a model computes fastest on one thread.
	@OMP_NUM_THREADS=1 $(BIN)/pureqwen serve $(OPTIONS)

test: $(VENV)/.dev  ## the fast tests, one thread per worker
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --maxprocesses 8 --dist worksteal

test-long: $(VENV)/.dev  ## soak, fuzz, the real 0.6B shape, the wheel in an empty environment
	$(PYTEST) -m long --durations 10

check: $(VENV)/.dev  ## format, lint, types, fast tests, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --maxprocesses 8 --dist worksteal
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev  ## rewrite the sources as ruff would have them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## write the generated parts of README.md and docs/ again
	$(BIN)/python docs/generate.py

capture: $(VENV)/.dev  ## run the README's two commands, the bench, the chats of docs/chat.md (tmux) again; keep what they print
	$(BIN)/python docs/generate.py --capture demo test
	$(BIN)/pureqwen bench --profile > docs/captured/bench.txt
	$(BIN)/python docs/capture_chat.py

bench: $(VENV)/.dev  ## measure, also other programs; writes benchmarks/results/*.json
	@$(MAKE) peers || echo "Some programs can't be installed: they are left out of the comparison." >&2
	set -e; for file in $(filter-out %_gpu.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$file; done
	$(BIN)/python docs/generate.py

bench-gpu: $(VENV)/.dev  ## measure on a CUDA device; writes benchmarks/results/gpu.json
	$(BIN)/python benchmarks/bench_gpu.py
	$(BIN)/python docs/generate.py

peers: $(PEERS)/.installed  ## what `make bench` compares with, in an environment of its own (compiles llama.cpp, once)

llama-server: $(PEERS)/bin/llama-server  ## llama.cpp's server, for benchmarks/bench_serve.py (compiles llama.cpp again, once)

pocket: $(VENV)/.dev  ## train the bundled model again (about 75 minutes on two cores)
	$(BIN)/python -m recipes.pocket

pocket-moe: $(VENV)/.dev  ## train its sibling, a mixture of experts (about as long)
	$(BIN)/python -m recipes.pocket --moe

pocket-eval: $(VENV)/.dev  ## ask the bundled models held-out questions; writes the JSON, their model cards, the README's table
	$(BIN)/python -m recipes.pocket.evaluate pocket
	$(BIN)/python -m recipes.pocket.evaluate pocket-moe
	$(BIN)/python -m recipes.pocket.card
	$(BIN)/python docs/generate.py

verify-real: $(VENV)/.runtime  ## download Qwen3-0.6B and compare with published values (needs a network)
	$(BIN)/python recipes/verify_real.py

dist: $(VENV)/.dev  ## wheel and sdist
	$(BIN)/python -m build --no-isolation

clean:  ## remove .venv, dist, the peers and the tools' caches, but not the compiled llama.cpp
	rm -rf $(VENV) $(PEERS)/venv $(PEERS)/models $(PEERS)/.installed dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pureqwen needs Python 3.11 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1 || true)" >&2; \
	  echo "Name another one, for example: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing pureqwen and torch into $(VENV), once; this takes a minute or a few ..." >&2
	@$(PIP) -e . $(PIP_ARGS)
	@touch $@

$(VENV)/.serve: $(VENV)/.runtime
	@echo "Installing what the server needs into $(VENV), once ..." >&2
	@$(PIP) -e '.[serve]' $(PIP_ARGS)
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing what the tests need into $(VENV), once ..." >&2
	@$(PIP) -e '.[dev]' $(PIP_ARGS)
	@# The tests read trl's chat template files and never import it, so none of what it depends on is needed.
	@$(PIP) --no-deps trl $(PIP_ARGS)
	@touch $@

# llama.cpp is compiled for this processor, which takes a quarter of an hour; the wheel is kept.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
	@test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	@echo "Installing other programs into $(PEERS), once ..." >&2
	@mkdir -p $(PEERS)/wheels
	@grep -v '^llama' $< > $(PEERS)/all-but-llama.txt
	@# All that is needed is listed: torchvision is not, though optimum-intel names it, and its builds seldom fit torch's.
	@$(PEERS_PIP) install --no-deps -r $(PEERS)/all-but-llama.txt $(PIP_ARGS)
	@ls $(PEERS)/wheels/*.whl > /dev/null 2>&1 || echo "Compiling llama.cpp, a quarter of an hour ..." >&2
	@CMAKE_ARGS="$(NATIVE)" $(PEERS_PIP) wheel --no-cache-dir --no-deps --find-links $(PEERS)/wheels -w $(PEERS)/wheels \
	  "$$(grep '^llama' $<)" $(PIP_ARGS)
	@$(PEERS_PIP) install --no-deps --find-links $(PEERS)/wheels "$$(grep '^llama' $<)" $(PIP_ARGS)
	@touch $@

# The wheel has no server: it is compiled from the same sources, as quick as the machine allows, without its web page.
$(PEERS)/bin/llama-server: $(PEERS)/.installed
	@mkdir -p $(PEERS)/source $(PEERS)/bin
	@$(PEERS_PIP) download --no-deps --no-binary llama_cpp_python -d $(PEERS)/source "$$(grep '^llama' benchmarks/peers/requirements.txt)" $(PIP_ARGS)
	@tar -xzf $(PEERS)/source/llama_cpp_python-*.tar.gz -C $(PEERS)/source
	@cmake -S $(PEERS)/source/llama_cpp_python-*/vendor/llama.cpp -B $(PEERS)/source/build -DCMAKE_BUILD_TYPE=Release \
	  $(NATIVE) -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	  -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF > $(PEERS)/source/build.log
	@cmake --build $(PEERS)/source/build --target llama-server --parallel >> $(PEERS)/source/build.log
	@cp $(PEERS)/source/build/bin/llama-server $@
