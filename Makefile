# The commands for users. `make help` lists them.
#
# A run is the target results/<dataset>/<model>/<method>/seed<k>/metrics.csv. Finished runs are not repeated, stopped
# runs continue, and `make -j 4` trains four at a time. `python recipes.py runs cifar10` lists the runs of a data set.

PYTHON ?= python3
VENV   ?= .venv
PY     ?= $(VENV)/bin/python#   make PY=python3 … uses your own environment instead
DATA   ?= data
# shortened runs have their own folder, so that they never replace the real ones
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
  $(error DATA and RESULTS must not contain spaces, nor $(BAD), which Make cannot handle. Use another path, or a link)
endif

.PHONY: help demo numbers test test-lowest torture mutate lint bench gpu-check prepare-data analyze report tables runs blocks
.PHONY: corrupted $(BLOCKS)
.SECONDARY:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@sed -n '/^# Variables/,/^$$/s/^# \{0,1\}//p' $(MAKEFILE_LIST)

# Variables: SEEDS="1 2 3"  MODELS="resnet34"  METHODS="softmax dismax_fpr"  (a part of a block)
#            EPOCHS=1  (a short test; its runs go to results/epochs1)
#            DEVICE=cuda:1  MIRROR=folder  DATASETS="cifar10 svhn"  PY=python3  (your own environment)
#            PROCESSES=8  (this many GPUs for each run)
#            RUNS_PER_GPU=5  (with make -j 5: this many runs on each GPU)
# Scripts:   ./run_cifar10_resnet34.sh … ./analyze.sh  (commands of the DisMax release)
#            run_scripts/sdde.sh METHOD DATASET, run_scripts/search.sh METHOD DATASET  (of SDDE's)
#            run_scripts/slurm.sh DATASET  (a reproduce target as a Slurm job array)

demo: DATASET = digits
demo: $(READY)  ## five losses and three ensembles on digits, and two tables; some minutes
	@$(PY) data/prepare.py --for digits --data-dir $(DATA)
	@$(MAKE) --no-print-directory -j $(CORES) $(RUNS:%=$(RESULTS)/%/weights.pt) DEVICE=cpu
	@$(PY) evaluate.py $(RUNS:%=$(RESULTS)/%) --data-dir $(DATA) --device cpu --if-changed
	@$(PY) analyze.py --dataset digits --results-dir $(RESULTS) --report
	@$(PY) run_scripts/end_demo.py $(RESULTS)/digits/lenet/dismax_fpr/seed1

prepare-data: $(READY)  ## download, verify and convert data sets; DATASETS= selects some
	@$(PY) data/prepare.py $(DATASETS) $(MIRROR:%=--mirror %) --data-dir $(DATA) $(JOBS:%=--jobs %)

reproduce-cifar10:  ## both papers' CIFAR-10 blocks: 15 single networks, 5 ensembles; 5 seeds
reproduce-cifar100:  ## the same for CIFAR-100
reproduce-imagenet200:  ## SDDE's outlier exposure: 2 ensembles of ResNet50s; 5 seeds
reproduce-imagenet:  ## DisMax's ImageNet table: ResNet18 × 5 losses; set IMAGENET_DIR
reproduce-mnist:  ## SDDE's MNIST block: 5 ensembles of LeNets; 5 seeds; runs on a laptop

# an OOD set that is not available is named and shows as missing; without its training set train.py stops
$(BLOCKS): DATASET = $(patsubst imagenet,imagenet1k,$(@:reproduce-%=%))
$(BLOCKS): $(READY)
	@$(PY) data/prepare.py --benchmark dismax --benchmark openood --for $(DATASET) $(MIRROR:%=--mirror %) --data-dir $(DATA) || true
	-@$(MAKE) --no-print-directory runs DATASET=$(DATASET)
	@$(PY) analyze.py --dataset $(DATASET) --results-dir $(RESULTS)
	@run_scripts/all_done.sh $(RESULTS) $(RUNS)

corrupted: $(READY)  ## calibration of CIFAR runs on CIFAR-10-C and CIFAR-100-C (6 GB)
	@$(PY) data/prepare.py $(or $(DATASETS),cifar10_c cifar100_c) $(MIRROR:%=--mirror %) --data-dir $(DATA)
	@$(PY) evaluate.py $(patsubst %/weights.pt,%,$(wildcard $(RESULTS)/cifar*/*/*/seed*/weights.pt)) --data-dir $(DATA) $(DEVICE:%=--device %)
	@$(PY) analyze.py --results-dir $(RESULTS) --corrupted

analyze: $(READY)  ## tables of all runs, next to the papers' numbers
	@$(PY) analyze.py --results-dir $(RESULTS)

report: $(READY)  ## a page with tables, figures and saliency maps: results/report.html
	@$(PY) analyze.py --results-dir $(RESULTS) --saliency --data-dir $(DATA)

tables: $(READY)  ## update the tables of results/reference, README.md and docs/
	@$(PY) analyze.py --results-dir results/reference > /dev/null
	@$(PY) reporting/readme_tables.py README.md benchmarks/README.md docs/*.md

numbers: $(READY)  ## train the next missing runs of results/queue.txt, one per core
	@$(PY) run_scripts/run_queue.py --data-dir $(DATA)

test: $(READY)  ## all tests, on the CPU; about ten minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(if $(filter 1,$(CORES)),1,2) --dist loadfile

torture: $(READY)  ## KILLS=600 random kills and every kind of file damage; half an hour
	@OMP_NUM_THREADS=1 $(PY) -m tests.faults $(KILLS:%=--kills %)

test-lowest:  ## all tests with the oldest allowed versions; LOWEST=python3.10
	@$(or $(LOWEST),python3.10) -m venv .venv-lowest
	@sed 's/>=/==/' requirements.txt > .venv-lowest/requirements.txt
	@.venv-lowest/bin/python -m pip install --quiet -r .venv-lowest/requirements.txt pytest pytest-randomly pytest-xdist setuptools wheel
	@$(MAKE) --no-print-directory test PY=.venv-lowest/bin/python

mutate: $(READY)  ## do the tests notice 40 small mistakes (drawn by SEED=)? some minutes
	@$(PY) tests/mutate.py $(if $(SEED),--seed $(SEED))

lint: $(READY)  ## ruff, and mypy on the packages dismax and sdde
	@$(PY) -m ruff check .
	@$(PY) -m mypy losses

bench: $(READY)  ## speed, compared with a baseline
	@$(PY) benchmarks/run.py

gpu-check: $(READY)  ## is everything correct on this GPU, and how fast? ten minutes, one file
	@$(PY) benchmarks/gpu_check.py

# ---- runs: recipes.py lists them; MODELS, METHODS and SEEDS select some; MODELS with METHODS may be any combination ----
# -k: when one fails, the others go on. Runs that another make works on come last, so that two makes share the work.

RUNS    = $(shell $(PYTHON) recipes.py runs $(DATASET) --models $(MODELS) --methods $(METHODS) --seeds $(SEEDS))
TARGETS = $(RUNS:%=$(RESULTS)/%/metrics.csv)

runs: $(READY)
	-@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(MAKE) --no-print-directory -k $(RUNS:%=$(RESULTS)/%/weights.pt) IF_LOCKED=skip)
	@$(MAKE) --no-print-directory -k $(TARGETS) || { run_scripts/all_done.sh $(RESULTS) $(RUNS); exit 1; }

blocks:  # one line per method and network with its targets, for run_scripts/slurm.sh
	@$(PYTHON) recipes.py runs $(DATASET) --models $(MODELS) --methods $(METHODS) --seeds $(SEEDS) --by-block \
	  | sed 's#[^ ]*#$(RESULTS)/&/metrics.csv#g'

part = $(word $(1),$(subst /, ,$(patsubst $(RESULTS)/%,%,$(@D))))# of <dataset>/<model>/<method>/seed<k>

$(RESULTS)/%/weights.pt: | $(READY)
	@$(TRAIN) --dataset $(call part,1) --model $(call part,2) --method $(call part,3) --seed $(patsubst seed%,%,$(call part,4)) --data-dir $(DATA) --results-dir $(RESULTS) $(EPOCHS:%=--epochs %) $(DEVICE:%=--device %) --if-locked $(or $(IF_LOCKED),wait)

# repeated when another set was prepared in between: the network then runs on that set only
$(RESULTS)/%/metrics.csv: $(RESULTS)/%/weights.pt $(wildcard $(DATA)/*/manifest.json)
	@$(JOB) $(PY) evaluate.py $(@D) --data-dir $(DATA) $(DEVICE:%=--device %) --if-locked wait

$(VENV)/ready: requirements.txt pyproject.toml
	@echo "Creating $(VENV) with PyTorch and other packages: about 3 minutes; 6 GB with CUDA"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
	@touch $@
