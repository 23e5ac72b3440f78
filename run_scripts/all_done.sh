#!/bin/sh
# Name the runs that are not evaluated yet; fail if there is one.  all_done.sh RESULTS RUN …
results=$1
shift
missing=
for run in "$@"; do [ -e "$results/$run/metrics.csv" ] || missing="$missing
  $results/$run"; done
[ -z "$missing" ] && exit
echo "Not finished (the reason is above; the same command continues):$missing" >&2
exit 1
