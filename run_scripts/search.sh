#!/bin/sh
# Like SDDE's scripts *_hopt.sh: search the weight of a diversity loss, with one run per weight, ranked by near-OOD AUROC.
#   run_scripts/search.sh gradcam mnist                       ranked by the AUROC of validation outliers
#   run_scripts/search.sh gradcam mnist --select published    ranked by the near test sets, as published
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
. "$root/run_scripts/find_python.sh"
exec "$python" "$root/run_scripts/search_weight.py" --data-dir "$root/data" --results-dir "$root/results" "$@"
