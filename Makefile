# samatch: one command reproduces everything. `make help` lists the targets.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
# HASHED=1: every file that is installed has the hash of the lock (Linux on x86-64).
HASHED ?=
LOCK := $(if $(HASHED),--require-hashes -r requirements-linux.lock,-r requirements.lock)

# Choices: make reproduce PROFILE=laptop DATASET=acdc DATA=DIR METHOD=fixmatch SAM=lite_medsam SEED=0 N=3
PROFILE ?=
DATASET ?=
METHOD ?= fixmatch
SAM ?= lite_medsam
SEED ?= 0
N ?= 3
# Words that stand in recipes: nothing in them means anything to a shell. Paths and lists reach it as
# environment variables instead.
WORDS := PROFILE DATASET METHOD SAM SEED N MODEL RUN SIDE_BY_SIDE
MARKS := ` " ' ; & | < > ( ) { } * ? ~ ! \ $$ \#
$(foreach word,$(WORDS),$(foreach mark,$(MARKS),$(if $(findstring $(mark),$(value $(word))),\
  $(error $(word)=$(value $(word)) is no name: it holds $(mark)))))
$(foreach word,$(WORDS),$(if $(word 2,$(value $(word))),$(error $(word)=$(value $(word)) is no name: it holds a blank)))
export NAME CLASSES CSV ARCHIVE IMAGES MASKS
ifdef DATA
# Made absolute by samatch/system/paths.py: $(abspath) would cut a name with a blank in two.
export SAMATCH_DATA := $(DATA)
endif

NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# These read tracked records alone; 01 to 04 and 08 train or generate.
FROM_RECORDS := $(foreach number,00 05 06 07,$(wildcard notebooks/$(number)_*.ipynb))
OWN_DATA := $(wildcard notebooks/08_*.ipynb)
LIBRARY := $(shell find samatch -name "*.py")
OUT := executed/$(PROFILE)/$(DATASET)
# One stamp a choice of method, SAM, seed and budget: another choice is another set of files.
TAG := n$(N)-$(METHOD)-$(SAM)-s$(SEED)
DONE := $(OUT)/$(TAG)
EXECUTED := $(patsubst notebooks/%,$(DONE)/%,$(NOTEBOOKS))
run_args = --profile $(1) --dataset $(2) --n-labeled $(N) --sam $(SAM) --seed $(SEED)
RUN_ARGS = $(call run_args,$(PROFILE),$(DATASET))
# Trainings go through one program: SIDE_BY_SIDE of them at once here (the demo uses one thread each), or, with
# LAUNCH="srun --gres=gpu:1", as so many jobs at once of a cluster: docs/scale.md.
LIST ?=
LAUNCH ?=
export LAUNCH LIST
SIDE_BY_SIDE ?= $(if $(LAUNCH),50,2)
TRAIN_LIST = $(PY) -W ignore tools/train_list.py --side-by-side $(SIDE_BY_SIDE)

.PHONY: help install reproduce run runs ablations comparisons seeds folds data verify manifest predict strip film audit benchmark test unit lint nbval nbval-trained nbval-own-data nbval-records notebooks tables figures pages faults book lock clean
help:  ## list the targets
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-22s %s\n", $$1, $$2}'
	@echo "  choices: PROFILE=demo|laptop|paper DATASET=phantom|acdc|busi|chaos|... DATA=DIR METHOD=fixmatch|unimatch|bcp SAM=lite_medsam SEED=0 N=3"

install: $(READY)  ## create .venv and install the pinned packages; HASHED=1 checks the hash of each (Linux on x86-64)
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(LOCK)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(PY) -c "import matplotlib.font_manager"  # lists the fonts once; a first notebook would say so
	@touch $@

reproduce: $(READY)  ## execute all notebooks in order; ends with the table
	@choice=$$($(PY) tools/choose_profile.py "$(PROFILE)" "$(DATASET)" "$(METHOD)" "$(SAM)" "$(N)") && set -- $$choice && \
	 { [ "$$1" = demo ] || $(PY) -W ignore -m samatch time $(call run_args,$$1,$$2) --method $(METHOD); } && \
	 $(MAKE) --no-print-directory run PROFILE=$$1 DATASET=$$2 && \
	 $(PY) -m samatch tables --profile $$1 --dataset $$2 --print && \
	 echo "notebooks: executed/$$1/$$2/$(TAG)/   results: executed/$$1/$$2/results/   figures: executed/$$1/$$2/figures/"

run: $(EXECUTED)

# Notebooks in order: each waits for the one before; 05 and later for the results of all runs.
define after
$(DONE)/$(notdir $(2)): $(if $(1),$(DONE)/$(notdir $(1)))
endef
$(foreach i,$(shell seq 2 $(words $(NOTEBOOKS))),$(eval $(call after,$(word $(shell expr $(i) - 1),$(NOTEBOOKS)),$(word $(i),$(NOTEBOOKS)))))
$(DONE)/05_ablations.ipynb: $(DONE)/runs.done

# A set whose manifest has changed is another one. (Of a folder with a blank, make cannot say so.)
MANIFEST := $(wildcard data_manifests/$(DATASET)/*)
MANIFEST += $(if $(DATA),$(if $(word 2,$(DATA)),,$(wildcard $(DATA)/$(DATASET)/manifest/*)))
$(DONE)/%.ipynb: notebooks/%.ipynb $(LIBRARY) $(READY) $(MANIFEST) tools/run_notebook.py
	@$(PY) tools/run_notebook.py $< $@ profile=$(PROFILE) dataset=$(DATASET) n_labeled=$(N) method=$(METHOD) sam=$(SAM) seed=$(SEED)

$(DONE)/runs.done: $(DONE)/04_joint_training.ipynb
	@$(PY) tools/list_runs.py reproduce $(METHOD) | $(TRAIN_LIST) - -- $(RUN_ARGS)
	@$(PY) -m samatch tables --profile $(PROFILE) --dataset $(DATASET)
	@touch $@

# The runs of a list side by side, then the tables. Their common parents are trained by `reproduce`'s notebooks first.
ablations comparisons seeds: $(READY)  ## train the ablation grid, every comparison method, or two more seeds; notebooks 05 to 07 show them
	@choice=$$($(PY) tools/choose_profile.py "$(PROFILE)" "$(DATASET)" "$(METHOD)" "$(SAM)" "$(N)") && set -- $$choice && \
	 { [ "$$1" = demo ] || [ "$$LAUNCH" ] || $(PY) tools/list_runs.py $@ $(METHOD) | \
	   $(PY) -W ignore -m samatch time $(call run_args,$$1,$$2) --method $(METHOD) --list -; } && \
	 $(MAKE) --no-print-directory run-$@ PROFILE=$$1 DATASET=$$2
run-%: $(DONE)/04_joint_training.ipynb
	@$(PY) tools/list_runs.py $* $(METHOD) | $(TRAIN_LIST) - -- $(RUN_ARGS)
	@$(PY) -m samatch tables --profile $(PROFILE) --dataset $(DATASET) --print
	@touch $(DONE)/runs.done

runs: $(READY)  ## train what is missing of a list, here or by Slurm: LIST=file LAUNCH="srun --gres=gpu:1"; docs/scale.md
	@$(TRAIN_LIST) "$$LIST"

folds: $(READY)  ## pool the results of a set's folds, once all are trained: PROFILE=laptop DATASET=chaos
	@$(PY) -m samatch folds pool --profile $(or $(PROFILE),laptop) --dataset $(or $(DATASET),chaos)

data: $(READY)  ## get and prepare a data set: DATASET=acdc, busi or chaos; DATA=DIR for a folder you have, ARCHIVE=FILE to unpack
	@$(PY) -m samatch data --dataset $(or $(DATASET),acdc) $(if $(ARCHIVE),--archive "$$ARCHIVE")
verify: $(READY)  ## check every file and array of a set against its manifest
	@$(PY) -m samatch verify --dataset $(or $(DATASET),acdc)
manifest: $(READY)  ## make a manifest of your own set: NAME=hearts CLASSES=RV,MYO,LV CSV=cases.csv DATA=DIR
	@$(PY) -m samatch manifest --name "$$NAME" --classes "$$CLASSES" --seed $(SEED) $(if $(CSV),--csv "$$CSV") $(CURATE_ARGS)
predict: $(READY)  ## masks for unlabeled images: MODEL=acdc IMAGES=DIR MASKS=DIR, or RUN=run_id PROFILE=laptop, WITH_SAM=1 for its SAM too
	@$(PY) -m samatch predict $(if $(MODEL),--model "$(MODEL)",--profile $(or $(PROFILE),demo) --run "$(RUN)" $(if $(WITH_SAM),--with-sam)) "$$IMAGES" "$$MASKS"
strip: $(READY)  ## the method on four unlabeled slices, by a finished joint run: PROFILE=laptop DATASET=acdc
	@$(PY) -W ignore -m samatch strip $(RUN_ARGS) --method $(METHOD)
film: $(READY)  ## one unlabeled slice over a joint training that was run with --film: PROFILE=laptop DATASET=acdc
	@$(PY) -W ignore -m samatch film $(RUN_ARGS) --method $(METHOD)

audit: $(READY)  ## recompute every tracked number by other code: PROFILE=laptop DATASET=acdc, or all sets without
	@$(PY) -m samatch audit $(if $(PROFILE),--profile $(PROFILE)) $(if $(DATASET),--dataset $(DATASET))
benchmark: $(READY)  ## time every step against a plain reference with the published structure, and how the cost grows; writes results/benchmarks and two figures
	$(PY) -W ignore -m benchmarks.run
	$(PY) -W ignore -m benchmarks.scaling

test: $(READY)  ## unit tests, notebook linter, tracked notebooks re-executed and compared; two of them at a time
	@$(MAKE) --no-print-directory -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) nbval-trained unit nbval-own-data nbval-records lint
unit: $(READY)
	$(PY) -m pytest
lint: $(READY)  ## ruff (lint and format), mypy (types) and the notebook linter
	$(PY) -m ruff check --quiet . && $(PY) -m ruff format --check --quiet .
	$(PY) -m mypy --no-error-summary
	$(PY) tools/check_notebooks.py notebooks
# Three parts that share nothing: 01 to 04 train one after the other, 08 trains on data of its own.
# `make test` begins the unit tests, the longest of all, before two of them.
nbval: nbval-trained nbval-own-data nbval-records
NBVAL = SAMATCH_OUT=$$(mktemp -d) $(PY) -m pytest --nbval-current-env --nbval-cell-timeout=900
nbval-trained: $(READY)
	$(NBVAL) --nbval-lax $(filter-out $(FROM_RECORDS) $(OWN_DATA),$(NOTEBOOKS))
nbval-own-data: $(READY)
	$(NBVAL) --nbval-lax $(OWN_DATA)
nbval-records: $(READY)
	$(NBVAL) --nbval $(FROM_RECORDS)

notebooks: $(READY)  ## execute all tracked notebooks in place, with their own parameters
	@for notebook in $(NOTEBOOKS); do SAMATCH_FIGURES="$(CURDIR)/figures" $(PY) tools/run_notebook.py --in-place $$notebook || exit 1; done

tables: $(READY)  ## make every tracked table anew from the tracked per-case values, and the pages that show them
	@$(PY) -m samatch tables --tracked
	@$(PY) tools/write_pages.py
figures: $(READY)  ## execute in place the notebooks that draw the tracked figures from the tracked records
	@for notebook in $(FROM_RECORDS); do SAMATCH_FIGURES="$(CURDIR)/figures" $(PY) tools/run_notebook.py --in-place $$notebook || exit 1; done
pages: $(READY)  ## fill the tables of README.md and docs from the tracked results
	@$(PY) tools/write_pages.py

faults: $(READY)  ## write docs/faults.md anew: the messages that the tests of faults are told
	@$(PY) -m pytest -q --write-faults $$(grep -lw told tests/test_*.py)

# The pages' tools, one small environment: Sphinx (why: docs/conf.py), no torch. A page fetches nothing from elsewhere, or the build fails.
BOOK := executed/book
BOOK_PY := .venv-book/bin/python
.venv-book/.installed: requirements-book.lock
	$(PYTHON) -m venv .venv-book
	$(BOOK_PY) -m pip install --quiet --disable-pip-version-check -r requirements-book.lock
	@touch $@
book: .venv-book/.installed  ## README, docs and the notebooks as executed, as pages that need no network: executed/book/index.html
	@rm -rf $(BOOK).partial
	$(BOOK_PY) -m sphinx -q -W --keep-going -b html -c docs -d $(BOOK).partial/cache . $(BOOK).partial/html
	@rm -rf $(BOOK) && mv $(BOOK).partial/html $(BOOK) && rm -rf $(BOOK).partial
	@echo "open $(BOOK)/index.html"

lock:  ## pin the newest packages that pyproject.toml allows, write the three locks and environment.yml
	$(PYTHON) tools/write_lock.py

clean:  ## remove what was executed and trained here (.venv and data stay)
	rm -rf executed runs
