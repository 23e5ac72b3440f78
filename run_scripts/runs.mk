# How a run is made: Makefile includes this file.
#
# `python recipes.py runs cifar10` lists the runs of a data set. MODELS, METHODS and SEEDS select some; MODELS with METHODS
# may be any combination.

BAD   := = : % ; ' " & ( ) * ? [ ] \ | < > ! ` $$
TYPED := $(value DATA)$(RESULTS)$(if $(filter file,$(origin RESULTS)),,$(value RESULTS))
ifneq ($(words $(DATA) $(RESULTS))$(strip $(foreach sign,$(BAD),$(findstring $(sign),$(TYPED)))),2)
  $(error DATA and RESULTS must not contain spaces, nor $(BAD), which Make cannot handle. Use another path, or a link)
endif

JOB     = $(if $(DEVICE)$(PROCESSES),,run_scripts/on_free_gpu.sh) $(PY)
TRAIN   = $(JOB) $(PROCESSES:%=-m torch.distributed.run --standalone --nproc_per_node=%) train.py
LIST    = $(PYTHON) recipes.py runs $(DATASET) --models $(MODELS) --methods $(METHODS) --seeds $(SEEDS)
RUNS    = $(shell $(LIST))
part    = $(word $(1),$(subst /, ,$(patsubst $(RESULTS)/%,%,$(@D))))# of <dataset>/<model>/<method>/seed<k>
ADDRESS = --dataset $(call part,1) --model $(call part,2) --method $(call part,3) --seed $(patsubst seed%,%,$(call part,4))
OPTIONS = --data-dir $(DATA) --results-dir $(RESULTS) $(EPOCHS:%=--epochs %) $(DEVICE:%=--device %)

.SECONDARY:

runs: $(READY)  # runs that another make works on come last; -k: when one fails, the others go on
	@$(if $(strip $(RUNS)),,run_scripts/all_done.sh $(RESULTS))
	-@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(MAKE) --no-print-directory -k $(RUNS:%=$(RESULTS)/%/weights.pt) IF_LOCKED=skip)
	@$(MAKE) --no-print-directory -k $(RUNS:%=$(RESULTS)/%/metrics.csv) || { run_scripts/all_done.sh $(RESULTS) $(RUNS); exit 1; }
blocks:  # one line per method and network with its targets, for run_scripts/slurm.sh
	@$(LIST) --by-block | sed 's#[^ ]*#$(RESULTS)/&/metrics.csv#g'
$(RESULTS)/%/weights.pt: | $(READY)
	@$(TRAIN) $(ADDRESS) $(OPTIONS) --if-locked $(or $(IF_LOCKED),wait)
# repeated when another set was prepared in between: the network then runs on that set only
$(RESULTS)/%/metrics.csv: $(RESULTS)/%/weights.pt $(wildcard $(DATA)/*/manifest.json)
	@$(JOB) evaluate.py $(@D) --data-dir $(DATA) $(DEVICE:%=--device %) --if-locked wait
