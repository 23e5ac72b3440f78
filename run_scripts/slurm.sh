#!/bin/bash
# A Slurm job array over Make's targets: one task per method and network trains and evaluates all its seeds.
#   run_scripts/slurm.sh cifar10                               the runs of make reproduce-cifar10
#   run_scripts/slurm.sh cifar10 MODELS=resnet34 SEEDS="1 2"   with Make's variables; PROCESSES=8: 8 GPUs per task
#   SBATCH_PARTITION=gpu SBATCH_TIMELIMIT=12:00:00 run_scripts/slurm.sh cifar100        sbatch reads these variables
# Prepare the data first (make prepare-data). The same command continues stopped runs. Afterwards: ./analyze.sh
usage() { sed -n 's/^# \{0,1\}//p' "$0"; exit 2; }
[ $# -ge 1 ] || usage
dataset=$1
shift
case $dataset in imagenet) dataset=imagenet1k ;; *=*) usage ;; esac
# Slurm runs a copy of this file, so the task is told where the repository is
root=${REPRODUCTION_ROOT:-$(readlink -f "$(dirname "$(readlink -f "$0")")/..")}
make() { command make --no-print-directory -C "$root" "$@" DATASET="$dataset"; }
if [ -n "$SLURM_ARRAY_TASK_ID" ]; then
  targets=$(make -s blocks "$@" | sed -n "${SLURM_ARRAY_TASK_ID}p")
  make $targets "$@"
  exit
fi
tasks=$(make -s blocks "$@" | wc -l)
[ "$tasks" -gt 0 ] || { echo "slurm.sh: nothing to run for $dataset $*" >&2; exit 1; }
gpus=1
for word in "$@"; do case $word in PROCESSES=*) gpus=${word#*=} ;; esac; done
export REPRODUCTION_ROOT=$root
exec sbatch --array="1-$tasks" --gpus="$gpus" --job-name="$dataset" --export=ALL "$0" "$dataset" "$@"
