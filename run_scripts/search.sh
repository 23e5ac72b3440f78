#!/bin/sh
# SDDE's scripts *_hopt.sh: search the weight of a diversity loss, one training a weight, the best by near-OOD AUROC.
#   run_scripts/search.sh gradcam mnist                       judged by outliers for validation
#   run_scripts/search.sh gradcam mnist --select published    judged, as published, by the near sets of the test
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
exec "$python" "$root/run_scripts/search_weight.py" --data-dir "$root/data" --results-dir "$root/results" "$@"
