# Every command that a user types. `make help` lists them; README.md shows what comes out.
#
# A run is the target results/<dataset>/<model>/<method>/seed<k>/metrics.csv: what exists is not repeated, what was
# stopped continues, and `make -j 4` does four at a time. `python recipes.py runs cifar10` says which runs there are.

PYTHON ?= python3
VENV   ?= .venv
PY     ?= $(VENV)/bin/python#   make PY=python3 … uses an environment of yours instead
DATA   ?= data
# a shortened try goes to a folder of its own, so that it never takes the place of the real run
RESULTS ?= results$(EPOCHS:%=/epochs%)
METHODS ?= $(LOSSES)
READY  := $(filter $(VENV)/ready,$(PY:/bin/python=/ready))
CORES  := $(shell getconf _NPROCESSORS_ONLN)
BLOCKS := $(addprefix reproduce-,cifar10 cifar100 imagenet imagenet200 mnist)
JOB    := $(if $(DEVICE)$(PROCESSES),,$(if $(shell nvidia-smi -L 2> /dev/null),run_scripts/on_free_gpu.sh))
TRAIN  := $(JOB) $(PY) $(PROCESSES:%=-m torch.distributed.run --standalone --nproc_per_node=%) train.py
BAD    := : % ; ' " & ( ) * ? [ ] \ | < > ! ` $$
TYPED  := $(value DATA)$(RESULTS)$(if $(filter file,$(origin RESULTS)),,$(value RESULTS))
ifneq ($(words $(DATA) $(RESULTS))$(strip $(foreach sign,$(BAD),$(findstring $(sign),$(TYPED)))),2)
  $(error DATA and RESULTS must not contain spaces, nor $(BAD), which make cannot handle: use another path, or a link)
endif

.PHONY: help demo numbers test test-lowest torture mutate lint bench gpu-check prepare-data analyze report tables runs blocks
.PHONY: corrupted $(BLOCKS)
.SECONDARY:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@sed -n '/^# Variables/,/^$$/s/^# \{0,1\}//p' $(MAKEFILE_LIST)

# Variables: SEEDS="1 2 3"  MODELS="resnet34"  METHODS="softmax dismax_fpr"  EPOCHS=1 (a look; goes to results/epochs1)
#            DEVICE=cuda:1  MIRROR=folder  DATASETS="cifar10 svhn"  PY=python3 (your own environment)
#            PROCESSES=8 (each run on so many GPUs)  RUNS_PER_GPU=5, with make -j 5 (so many runs on each GPU)
# Scripts:   ./run_cifar10_resnet34.sh … ./run_imagenet1k_resnet18.sh, ./analyze.sh (the DisMax release's commands)
#            run_scripts/sdde.sh METHOD DATASET, run_scripts/search.sh METHOD DATASET (SDDE's)
#            run_scripts/slurm.sh DATASET (a job array of a reproduce target)

demo: DATASET = digits
demo: $(READY)  ## some minutes on a laptop: five losses and three ensembles on real images, and two tables
	@$(PY) data/prepare.py --for digits --data-dir $(DATA)
	@$(MAKE) --no-print-directory -j $(CORES) $(RUNS:%=$(RESULTS)/%/weights.pt) DEVICE=cpu
	@$(PY) evaluate.py $(RUNS:%=$(RESULTS)/%) --data-dir $(DATA) --device cpu --if-changed
	@$(PY) analyze.py --dataset digits --results-dir $(RESULTS) --report
	@$(PY) run_scripts/end_demo.py $(RESULTS)/digits/lenet/dismax_fpr/seed1

prepare-data: $(READY)  ## download or take from MIRROR=, verify, convert; DATASETS= narrows it
	@$(PY) data/prepare.py $(DATASETS) $(MIRROR:%=--mirror %) --data-dir $(DATA) $(JOBS:%=--jobs %)

reproduce-cifar10:  ## both papers' CIFAR-10 blocks: three networks × five losses, and five ensembles, × five seeds
reproduce-cifar100:  ## the same for CIFAR-100
reproduce-imagenet200:  ## SDDE's outlier exposure on ImageNet-200: two ensembles of ResNet50s × five seeds
reproduce-imagenet:  ## DisMax's ImageNet table: ResNet18 × five losses, ImageNet-O; set IMAGENET_DIR
reproduce-mnist:  ## SDDE's MNIST block: five ensembles of LeNets × five seeds; a laptop job

# an OOD set that cannot be had is named and shows as missing; a missing training set stops train.py
$(BLOCKS): DATASET = $(patsubst imagenet,imagenet1k,$(@:reproduce-%=%))
$(BLOCKS): $(READY)
	@$(PY) data/prepare.py --benchmark dismax --benchmark openood --for $(DATASET) $(MIRROR:%=--mirror %) --data-dir $(DATA) || true
	-@$(MAKE) --no-print-directory runs DATASET=$(DATASET)
	@$(PY) analyze.py --dataset $(DATASET) --results-dir $(RESULTS)
	@run_scripts/all_done.sh $(RESULTS) $(RUNS)

corrupted: $(READY)  ## calibration under corruption (CIFAR-10-C, CIFAR-100-C; 6 GB) of the CIFAR runs that are there
	@$(PY) data/prepare.py $(or $(DATASETS),cifar10_c cifar100_c) $(MIRROR:%=--mirror %) --data-dir $(DATA)
	@$(PY) evaluate.py $(patsubst %/weights.pt,%,$(wildcard $(RESULTS)/cifar*/*/*/seed*/weights.pt)) --data-dir $(DATA) $(DEVICE:%=--device %)
	@$(PY) analyze.py --results-dir $(RESULTS) --corrupted

analyze: $(READY)  ## all tables from all runs, beside the papers'
	@$(PY) analyze.py --results-dir $(RESULTS)

report: $(READY)  ## the same as a page with figures and saliency maps, results/report.html
	@$(PY) analyze.py --results-dir $(RESULTS) --saliency --data-dir $(DATA)

tables: $(READY)  ## the tables of results/reference, and those in README.md and docs/, from the committed files
	@$(PY) analyze.py --results-dir results/reference > /dev/null
	@$(PY) reporting/readme_tables.py README.md benchmarks/README.md docs/*.md

numbers: $(READY)  ## the next missing runs of results/queue.txt, one a core, into results/reference
	@$(PY) run_scripts/run_queue.py --data-dir $(DATA)

test: $(READY)  ## every claim that this repository makes, on the CPU, in a few minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(if $(filter 1,$(CORES)),1,2) --dist loadfile

torture: $(READY)  ## KILLS=600 kills at random moments, every kind of damage to every file; half an hour
	@OMP_NUM_THREADS=1 $(PY) -m tests.faults $(KILLS:%=--kills %)

test-lowest:  ## the same with the oldest versions that requirements.txt allows, in .venv-lowest; LOWEST=python3.10
	@$(or $(LOWEST),python3.10) -m venv .venv-lowest
	@sed 's/>=/==/' requirements.txt > .venv-lowest/requirements.txt
	@.venv-lowest/bin/python -m pip install --quiet -r .venv-lowest/requirements.txt pytest pytest-randomly pytest-xdist setuptools wheel
	@$(MAKE) --no-print-directory test PY=.venv-lowest/bin/python

mutate: $(READY)  ## forty small mistakes in the code, drawn by SEED=: does a test notice each? a few minutes
	@$(PY) tests/mutate.py $(if $(SEED),--seed $(SEED))

lint: $(READY)  ## ruff, and mypy on the packages dismax and sdde
	@$(PY) -m ruff check .
	@$(PY) -m mypy losses

bench: $(READY)  ## speed, against what a user would otherwise run
	@$(PY) benchmarks/run.py

gpu-check: $(READY)  ## ten minutes on a new GPU: does everything work on it, and how fast? writes a file to send back
	@$(PY) benchmarks/gpu_check.py

# ---- runs: recipes.py lists them; MODELS, METHODS and SEEDS narrow the list; both names together combine freely ----
# -k: when one fails, the others go on. Runs that another make is at are left for last, so that two makes share the work.

RUNS    = $(shell $(PYTHON) recipes.py runs $(DATASET) --models $(MODELS) --methods $(METHODS) --seeds $(SEEDS))
TARGETS = $(RUNS:%=$(RESULTS)/%/metrics.csv)

runs: $(READY)
	@$(if $(strip $(RUNS)),,run_scripts/all_done.sh $(RESULTS))
	-@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(MAKE) --no-print-directory -k $(RUNS:%=$(RESULTS)/%/weights.pt) IF_LOCKED=skip)
	@$(MAKE) --no-print-directory -k $(TARGETS) || { run_scripts/all_done.sh $(RESULTS) $(RUNS); exit 1; }

blocks:  # the targets of a method on a network a line, for run_scripts/slurm.sh
	@$(PYTHON) recipes.py runs $(DATASET) --models $(MODELS) --methods $(METHODS) --seeds $(SEEDS) --by-block \
	  | sed 's#[^ ]*#$(RESULTS)/&/metrics.csv#g'

part = $(word $(1),$(subst /, ,$(patsubst $(RESULTS)/%,%,$(@D))))# of <dataset>/<model>/<method>/seed<k>

$(RESULTS)/%/weights.pt: | $(READY)
	@$(TRAIN) --dataset $(call part,1) --model $(call part,2) --method $(call part,3) --seed $(patsubst seed%,%,$(call part,4)) --data-dir $(DATA) --results-dir $(RESULTS) $(EPOCHS:%=--epochs %) $(DEVICE:%=--device %) --if-locked $(or $(IF_LOCKED),wait)

# again when another set has been prepared since: the network then runs on that set only
$(RESULTS)/%/metrics.csv: $(RESULTS)/%/weights.pt $(wildcard $(DATA)/*/manifest.json)
	@$(JOB) $(PY) evaluate.py $(@D) --data-dir $(DATA) $(DEVICE:%=--device %) --if-locked wait

$(VENV)/ready: requirements.txt pyproject.toml
	@echo "Making $(VENV): PyTorch and the rest, about 3 minutes and, with CUDA, 6 GB"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
	@touch $@
