# The commands for users. `make help` lists them and their variables.
#
# A run is the target results/<dataset>/<model>/<method>/seed<k>/metrics.csv. Finished runs are not repeated, stopped
# runs continue, and `make -j 4` trains four at a time. run_scripts/runs.mk says how a run is made.

PYTHON  ?= python3
VENV    ?= .venv
PY      ?= $(VENV)/bin/python#     make PY=python3 … uses your own environment instead
DATA    ?= data
RESULTS ?= results$(EPOCHS:%=/epochs%)#     shortened runs never replace the real ones
METHODS ?= $(LOSSES)
READY   := $(filter $(VENV)/ready,$(PY:/bin/python=/ready))
CORES   := $(shell getconf _NPROCESSORS_ONLN)
PREPARE  = $(PY) data/prepare.py $(MIRROR:%=--mirror %) --data-dir $(DATA)
BLOCKS  := $(addprefix reproduce-,cifar10 cifar100 imagenet imagenet200 mnist)

.PHONY: help demo prepare-data $(BLOCKS) corrupted analyze report tables numbers runs blocks
.PHONY: test torture test-lowest mutate lint bench gpu-check

help:  ## list the targets
	@run_scripts/help.sh $(firstword $(MAKEFILE_LIST))
demo: DATASET = digits
demo: $(READY)  ## five losses and three ensembles on digits, and two tables; some minutes
	@$(PREPARE) --for digits
	@$(MAKE) --no-print-directory -j $(CORES) $(RUNS:%=$(RESULTS)/%/weights.pt) DEVICE=cpu
	@$(PY) evaluate.py $(RUNS:%=$(RESULTS)/%) --data-dir $(DATA) --device cpu --if-changed
	@$(PY) analyze.py --dataset digits --results-dir $(RESULTS) --report
	@$(PY) run_scripts/end_demo.py $(RESULTS)/digits/lenet/dismax_fpr/seed1
prepare-data: $(READY)  ## download, verify and convert data sets; DATASETS= selects some
	@$(PREPARE) $(DATASETS) $(JOBS:%=--jobs %)

reproduce-cifar10:  ## both papers' CIFAR-10 blocks: 15 single networks, 5 ensembles; 5 seeds
reproduce-cifar100:  ## the same for CIFAR-100
reproduce-imagenet200:  ## SDDE's outlier exposure: 2 ensembles of ResNet50s; 5 seeds
reproduce-imagenet:  ## DisMax's ImageNet table: ResNet18 × 5 losses; set IMAGENET_DIR
reproduce-mnist:  ## SDDE's MNIST block: 5 ensembles of LeNets; 5 seeds; runs on a laptop
# an OOD set that is not available is named and shows as missing; without its training set train.py stops
$(BLOCKS): DATASET = $(patsubst imagenet,imagenet1k,$(@:reproduce-%=%))
$(BLOCKS): $(READY)
	@$(LIST) > /dev/null
	@$(PREPARE) --benchmark dismax --benchmark openood --for $(DATASET) || true
	-@$(MAKE) --no-print-directory runs DATASET=$(DATASET)
	@$(PY) analyze.py --dataset $(DATASET) --results-dir $(RESULTS)
	@run_scripts/all_done.sh $(RESULTS) $(RUNS)
corrupted: $(READY)  ## calibration of CIFAR runs on CIFAR-10-C and CIFAR-100-C (6 GB)
	@$(PREPARE) $(or $(DATASETS),cifar10_c cifar100_c)
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

test: $(READY)  ## all tests, on the CPU; some minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(if $(filter 1,$(CORES)),1,2) --dist loadfile
torture: $(READY)  ## KILLS=600 random kills and every kind of file damage; half an hour
	@OMP_NUM_THREADS=1 $(PY) -m tests.faults $(KILLS:%=--kills %)
test-lowest:  ## all tests with the oldest allowed versions; LOWEST=python3.10
	@run_scripts/test_lowest.sh
mutate: $(READY)  ## do the tests notice 40 small mistakes (drawn by SEED=)? some minutes
	@$(PY) tests/mutate.py $(SEED:%=--seed %)
lint: $(READY)  ## ruff, and mypy on the packages dismax and sdde
	@$(PY) -m ruff check .
	@$(PY) -m mypy losses
bench: $(READY)  ## speed, compared with a baseline
	@$(PY) benchmarks/run.py
gpu-check: $(READY)  ## is everything correct on this GPU, and how fast? ten minutes, one file
	@$(PY) benchmarks/gpu_check.py

$(VENV)/ready: requirements.txt pyproject.toml
	@run_scripts/make_venv.sh $(VENV) $(PYTHON)
	@touch $@

include run_scripts/runs.mk
