#!/bin/bash
# Wait for a GPU with a free slot, then run a command on it. `make -j 8` starts its jobs with this script.
#   run_scripts/on_free_gpu.sh python train.py …
# RUNS_PER_GPU=5 allows five commands at once on each GPU, with NVIDIA MPS if it can be started. CUDA_VISIBLE_DEVICES
# limits the choice. Under Slurm a job uses the GPUs that Slurm gave it. Without a GPU the command simply runs.
slots=${RUNS_PER_GPU:-1}
if [ -n "$SLURM_JOB_ID" ] && [ "$slots" = 1 ] && [[ $CUDA_VISIBLE_DEVICES != *,* ]]; then exec "$@"; fi
# what nvidia-smi prints without a driver is no GPU
ask() { timeout 30 nvidia-smi --query-gpu="$1" --format=csv,noheader 2> /dev/null; }
gpus=${CUDA_VISIBLE_DEVICES-$(ask uuid | grep -E '^(GPU|MIG)-')}
[ -n "$gpus" ] && [[ $gpus != -* ]] && command -v flock > /dev/null || exec "$@"  # -1 hides all of them
job=$(id -u)${SLURM_JOB_ID:+-$SLURM_JOB_ID}
locks=${TMPDIR:-/tmp}/gpus-of-$job
mkdir -p "$locks" || exit

cards=${CUDA_VISIBLE_DEVICES:+$(ask index,uuid,name)}
lock_of() {  # a card has one lock, whether it is named by its number, its UUID or the beginning of that
  # CUDA counts as nvidia-smi does if all cards are of one kind, or if it is told to; else a number stays a number
  local found=$(awk -F ', *' -v name="$1" -v order="$CUDA_DEVICE_ORDER" '
    { by_number[$1] = $2; if (!($3 in kinds)) { kinds[$3]; n++ } }
    index(name, "GPU-") == 1 && index($2, name) == 1 { found = $2; matches++ }
    END { if (name ~ /^[0-9]+$/ && (n == 1 || order == "PCI_BUS_ID")) print by_number[name + 0]
          else if (matches == 1) print found }' <<< "$cards")
  found=${found:-$1}
  echo "${found//\//_}"  # names of parts of a card (MIG) may have a /
}

control() { timeout 30 nvidia-cuda-mps-control "$@" 2> /dev/null; }
mps_is_running() { echo get_server_list | control > /dev/null; }

choose_mps() {  # a daemon of our own, as another user's or another job's is of no use; or the one that the user has
  [ -n "$CUDA_MPS_PIPE_DIRECTORY" ] && return
  [ -z "$SLURM_JOB_ID" ] && [ -O /tmp/nvidia-mps ] && mps_is_running && return
  pipes=$locks/mps
  [ ${#pipes} -gt 80 ] && pipes=/tmp/mps-of-$job  # names of sockets are short
  mkdir -p "$pipes" && export CUDA_MPS_PIPE_DIRECTORY=$pipes CUDA_MPS_LOG_DIRECTORY=$pipes
}

start_daemon() {  # it sees all GPUs, and holds none of our locks open while it runs
  env -u CUDA_VISIBLE_DEVICES timeout 30 nvidia-cuda-mps-control -d < /dev/null > /dev/null 2>&1 7>&- 8>&-
}

start_mps() {  # several processes share a GPU's cores instead of taking turns
  exec 7> "$locks/mps-starting" 8> "$locks/mps-users"
  flock 7
  choose_mps
  if mps_is_running; then
    :  # since an earlier command
  elif command -v nvidia-cuda-mps-control > /dev/null && start_daemon; then
    echo "on_free_gpu.sh: started NVIDIA MPS for $slots runs on each GPU" >&2
    touch "$locks/mps-is-ours"
  else
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    [ -e "$locks/no-mps" ] ||
      echo "on_free_gpu.sh: NVIDIA MPS cannot be started here: $slots runs on each GPU take turns" >&2
    touch "$locks/no-mps"
  fi
  flock -s 8  # while the command runs
  exec 7>&-
}

stop_mps() {  # with the last command that uses it
  exec 7> "$locks/mps-starting"
  flock 7
  if flock -n 8 && [ -e "$locks/mps-is-ours" ]; then
    echo quit | control > /dev/null
    for _ in 1 2 3 4 5; do mps_is_running || break; sleep 1; done  # else the next command finds a daemon that is ending
    rm -f "$locks/mps-is-ours"
    echo "on_free_gpu.sh: stopped NVIDIA MPS" >&2
  fi
}

pairs=
for gpu in ${gpus//,/ }; do pairs+=" $gpu=$(lock_of "$gpu")"; done
[ "$slots" -gt 1 ] && start_mps  # before a slot is free, so that it does not stop in between
while :; do
  for slot in $(seq "$slots"); do
    for pair in $pairs; do
      exec 9> "$locks/${pair#*=}-$slot"
      if flock -n 9; then  # held by the command, which inherits the file, until it ends, however it ends
        export CUDA_VISIBLE_DEVICES=${pair%%=*}
        [ "$slots" -gt 1 ] || exec "$@"
        "$@" &
        trap 'kill -TERM $! 2> /dev/null' TERM INT
        wait $!; status=$?
        while kill -0 $! 2> /dev/null; do wait $!; status=$?; done  # a signal ends a wait, not the command
        stop_mps
        exit $status
      fi
    done
  done
  sleep 1
done
