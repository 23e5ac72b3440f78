#!/bin/sh
# Name the runs that are not evaluated yet, and fail if there are any.  all_done.sh RESULTS RUN …
results=$1
shift
missing=
for run in "$@"; do
  metrics=$results/$run/metrics.csv weights=$results/$run/weights.pt
  if [ ! -e "$metrics" ] || [ "$metrics" -ot "$weights" ]; then missing="$missing
  $results/$run"; fi
done
[ -z "$missing" ] && exit
echo "Not finished (the reason is above; the same command continues):$missing" >&2
exit 1
