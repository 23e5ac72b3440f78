#!/bin/sh
# Name the runs that are not evaluated yet; fail if there is one, or if there are no runs.  all_done.sh RESULTS RUN …
results=$1
shift
if [ $# = 0 ]; then
  echo "There are no such runs: python recipes.py runs DATASET lists them (DATASET=, MODELS=, METHODS=, SEEDS=)" >&2
  exit 1
fi
missing=
for run in "$@"; do
  metrics=$results/$run/metrics.csv weights=$results/$run/weights.pt
  if [ ! -e "$metrics" ] || [ "$metrics" -ot "$weights" ]; then missing="$missing
  $results/$run"; fi
done
[ -z "$missing" ] && exit
echo "Not finished (the reason is above; the same command continues):$missing" >&2
exit 1
