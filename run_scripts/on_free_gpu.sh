#!/bin/bash
# Run a command on a GPU that no other such command of yours has, and wait for one if need be; `make -j 8` does so for its
# jobs. Of CUDA_VISIBLE_DEVICES if that is set. Where there is no GPU, or no flock, the command is just run.
#   run_scripts/on_free_gpu.sh python train.py …
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=uuid --format=csv,noheader 2> /dev/null)}
[ -n "$gpus" ] && command -v flock > /dev/null || exec "$@"
locks=${TMPDIR:-/tmp}/gpus-of-$(id -u)
mkdir -p "$locks" || exit
while :; do
  for gpu in ${gpus//,/ }; do
    exec 9> "$locks/$gpu"
    if flock -n 9; then  # held until the command, which inherits the file, ends
      export CUDA_VISIBLE_DEVICES=$gpu
      exec "$@"
    fi
  done
  sleep 1
done
