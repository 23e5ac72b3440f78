# Every command that a person types. `make help` lists them; README.md shows what comes out.
#
# A run is the target results/<dataset>/<model>/<loss>/seed<k>/metrics.csv: what exists is not done again, what was cut
# short goes on, and `make -j 4` does four at a time.

PYTHON ?= python3
VENV   ?= .venv
PY     ?= $(VENV)/bin/python#   make PY=python3 … uses an environment of yours instead
DATA   ?= data
# PROCESSES=8: a run on so many GPUs of this machine
TRAIN  = $(PY) $(if $(PROCESSES),-m torch.distributed.run --standalone --nproc_per_node=$(PROCESSES)) train.py
GPU   := $(if $(filter cpu mps,$(DEVICE)),,$(shell nvidia-smi -L 2> /dev/null | grep -m 1 GPU))
FREE_GPU = $(if $(GPU),$(if $(DEVICE)$(PROCESSES),,run_scripts/on_free_gpu.sh))# with make -j each job has a device to itself
# a shortened try goes to a folder of its own, so that it never stands in for the real run
RESULTS ?= results$(if $(EPOCHS),/epochs$(EPOCHS))
# DisMax trained each of its ImageNet networks once
SEEDS  ?= 1 $(if $(and $(filter imagenet1k,$(DATASET)),$(if $(filter resnet50,$(MODELS)),,once)),,2 3 4 5)

MIRRORS = $(foreach mirror,$(MIRROR),--mirror $(mirror))
READY  := $(if $(filter $(VENV)/bin/python,$(PY)),$(VENV)/ready)
CORES  := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: help demo test mutate lint bench prepare-data analyze report tables runs blocks
.PHONY: reproduce-cifar10 reproduce-cifar100 reproduce-imagenet reproduce-imagenet200 reproduce-mnist
.SECONDARY:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'Variables: SEEDS="1 2 3"  MODELS="resnet34"  LOSSES="softmax dismax_fpr"  EPOCHS=1 (a look; goes to results/epochs1)'
	@echo '           DEVICE=cuda:1  MIRROR=folder  DATASETS="cifar10 svhn"  PY=python3 (your own environment)'
	@echo '           PROCESSES=8 (each run on so many GPUs)'
	@echo 'Scripts:   ./run_cifar10_resnet34.sh … ./run_imagenet1k_resnet18.sh, ./analyze.sh (the DisMax release'\''s commands)'
	@echo '           run_scripts/sdde.sh METHOD DATASET, run_scripts/search.sh METHOD DATASET (SDDE'\''s)'
	@echo '           run_scripts/slurm.sh DATASET (a job array of a reproduce target)'

DEMO = $(foreach loss,$(DISMAX_LOSSES),$(foreach seed,1 2 3,$(RESULTS)/digits/lenet/$(loss)/seed$(seed))) \
       $(foreach loss,de gradcam dismax-5-gradcam,$(RESULTS)/digits/lenet/$(loss)/seed1)

demo: $(READY)  ## two minutes on a laptop: five losses and three ensembles on real images, and two tables
	@$(PY) data/prepare.py --for digits --data-dir $(DATA)
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j $(CORES) $(addsuffix /weights.pt,$(DEMO)) DEVICE=cpu
	@$(PY) evaluate.py $(DEMO) --data-dir $(DATA) --device cpu --if-changed
	@$(PY) analyze.py --dataset digits --results-dir $(RESULTS)
	@echo
	@echo 'Digits 0–6 were learned; 7–9 and patches of photographs were told apart from them. A toy: its numbers prove nothing.'
	@echo 'Next:'
	@echo '  make prepare-data DATASETS="cifar10 cifar100 svhn"                                    340 MB, verified'
	@echo '  make reproduce-cifar10 MODELS=resnet34 LOSSES="softmax dismax_fpr" SEEDS=1 EPOCHS=1   a look at the real thing'
	@echo '  make reproduce-cifar10 MODELS=resnet34                                                the paper'\''s rows, on a GPU'

prepare-data: $(READY)  ## download or take from MIRROR=, verify, convert; DATASETS= narrows it
	@$(PY) data/prepare.py $(DATASETS) $(MIRRORS) --data-dir $(DATA) $(if $(JOBS),--jobs $(JOBS))

reproduce-cifar10:  ## both papers' CIFAR-10 blocks: three networks × five losses, and five ensembles, × five seeds
reproduce-cifar100:  ## the same for CIFAR-100
reproduce-imagenet200:  ## SDDE's outlier exposure on ImageNet-200: two ensembles of ResNet50s × five seeds
reproduce-imagenet:  ## DisMax's ImageNet table: ResNet18 × five losses, ImageNet-O; set IMAGENET_DIR
reproduce-mnist:  ## SDDE's MNIST block: five ensembles of LeNets × five seeds; a laptop job

reproduce-cifar10: DATASET = cifar10
reproduce-cifar100: DATASET = cifar100
reproduce-imagenet: DATASET = imagenet1k
reproduce-imagenet200: DATASET = imagenet200
reproduce-mnist: DATASET = mnist

# an outlier set that cannot be had is named and shows as missing; a missing training set stops train.py
reproduce-cifar10 reproduce-cifar100 reproduce-imagenet reproduce-imagenet200 reproduce-mnist: $(READY)
	@$(PY) data/prepare.py --benchmark dismax --benchmark openood --for $(DATASET) $(MIRRORS) --data-dir $(DATA) || true
	@$(MAKE) --no-print-directory runs DATASET=$(DATASET) SEEDS="$(SEEDS)"
	@$(PY) analyze.py --dataset $(DATASET) --results-dir $(RESULTS)

analyze: $(READY)  ## all tables from all runs, beside the papers'
	@$(PY) analyze.py --results-dir $(RESULTS)

report: $(READY)  ## the same as a page with figures, results/report.html
	@$(PY) analyze.py --results-dir $(RESULTS) --report

tables: $(READY)  ## the tables of results/reference, and those in the READMEs, from the committed files
	@$(PY) analyze.py --results-dir results/reference > /dev/null
	@$(PY) data/sources/readme_table.py --into README.md
	@$(PY) reporting/readme.py README.md benchmarks/README.md

test: $(READY)  ## every claim that this repository makes, on the CPU, in a few minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(if $(filter 1,$(CORES)),1,2) --dist loadfile

mutate: $(READY)  ## forty small mistakes in the code, drawn by SEED=: does a test notice each? a few minutes
	@$(PY) tests/mutate.py $(if $(SEED),--seed $(SEED))

lint: $(READY)  ## ruff
	@$(PY) -m ruff check .

bench: $(READY)  ## speed, against what a user would otherwise run
	@$(PY) benchmarks/run.py

# ---- runs ----

# what each paper trained on a data set; MODELS and LOSSES narrow it, and both together name any combination
DISMAX_LOSSES = softmax isomax isomaxplus dismax dismax_fpr
SDDE_LOSSES   = $(if $(filter imagenet200,$(DATASET)),oe gradcam_oe,de ncl adp dice gradcam)
DISMAX_MODELS = $(strip $(if $(filter cifar%,$(DATASET)),densenetbc100 resnet34 wideresnet2810) \
                        $(if $(filter imagenet1k,$(DATASET)),resnet18) $(if $(filter digits,$(DATASET)),lenet))
SDDE_MODELS   = $(strip $(if $(filter cifar%,$(DATASET)),resnet18_32x32) $(if $(filter mnist,$(DATASET)),lenet) \
                        $(if $(filter imagenet200,$(DATASET)),resnet50))

cross  = $(foreach m,$(1),$(foreach l,$(2),$(m)/$(l)))
narrow = $(if $(2),$(filter $(2),$(1)),$(1))
BLOCKS = $(if $(and $(MODELS),$(LOSSES)),$(call cross,$(MODELS),$(LOSSES)),\
  $(call cross,$(call narrow,$(DISMAX_MODELS),$(MODELS)),$(call narrow,$(DISMAX_LOSSES),$(LOSSES))) \
  $(call cross,$(call narrow,$(SDDE_MODELS),$(MODELS)),$(call narrow,$(SDDE_LOSSES),$(LOSSES))))

runs: $(foreach s,$(SEEDS),$(foreach b,$(BLOCKS),$(RESULTS)/$(DATASET)/$(b)/seed$(s)/metrics.csv))

# the targets of a block a line, for run_scripts/slurm.sh
blocks:
	@$(foreach b,$(BLOCKS),echo $(foreach s,$(SEEDS),$(RESULTS)/$(DATASET)/$(b)/seed$(s)/metrics.csv);)

# dataset model loss seed, from results/<dataset>/<model>/<loss>/seed<k>/<file>
address = $(subst /, ,$(patsubst $(RESULTS)/%,%,$(@D)))

train = $(FREE_GPU) $(TRAIN) --dataset $(word 1,$(address)) --model $(word 2,$(address)) --loss $(word 3,$(address)) \
  $(1) --data-dir $(DATA) --results-dir $(RESULTS) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DEVICE),--device $(DEVICE))

$(RESULTS)/%/weights.pt: | $(READY)
	@$(call train,--seed $(patsubst seed%,%,$(word 4,$(address))))

# On a GPU one command trains a block's seeds side by side, as one small network cannot fill it. TOGETHER= forbids it.
TOGETHER ?= $(if $(PROCESSES)$(filter imagenet%,$(DATASET)),,$(GPU))
ifneq ($(and $(DATASET),$(strip $(TOGETHER))),)
$(foreach s,$(SEEDS),$(RESULTS)/%/seed$(s)/weights.pt): | $(READY)
	@$(call train,--seeds $(SEEDS))
endif

# again when another set has been prepared since: the network then runs on that set only
$(RESULTS)/%/metrics.csv: $(RESULTS)/%/weights.pt $(wildcard $(DATA)/*/manifest.json)
	@$(FREE_GPU) $(PY) evaluate.py $(@D) --data-dir $(DATA) $(if $(DEVICE),--device $(DEVICE))

$(VENV)/ready: requirements.txt
	@echo "Making $(VENV): PyTorch and the rest, about 3 minutes and, with CUDA, 6 GB"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt pytest pytest-randomly pytest-xdist ruff
	@touch $@
