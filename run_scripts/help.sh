#!/bin/sh
# List the targets of a Makefile that have a comment behind ##, and the variables.  help.sh Makefile
awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "make %-22s %s\n", $1, $2}' "$1"
cat << 'END'
Variables: SEEDS="1 2 3"  MODELS="resnet34"  METHODS="softmax dismax_fpr"  (a part of a block)
           EPOCHS=1  (a short test; its runs go to results/epochs1)
           DEVICE=cuda:1  MIRROR=folder  DATASETS="cifar10 svhn"  JOBS=4  (downloads at a time)
           PY=python3  (your own environment)
           DATA=folder  RESULTS=folder  (prepared data sets, default data; runs, default results)
           PROCESSES=8  (this many GPUs for each run)
           RUNS_PER_GPU=5  (with make -j 5: this many runs on each GPU)
Scripts:   ./run_cifar10_resnet34.sh … ./analyze.sh  (commands of the DisMax release)
           run_scripts/sdde.sh METHOD DATASET, run_scripts/search.sh METHOD DATASET  (of SDDE's)
           run_scripts/slurm.sh DATASET  (a reproduce target as a Slurm job array)
END
