#!/bin/sh
# Like SDDE's scripts *_hopt.sh: search the weight of a diversity loss, with one run per weight, ranked by near-OOD AUROC.
#   run_scripts/search.sh gradcam mnist                       ranked by the AUROC of validation outliers
#   run_scripts/search.sh gradcam mnist --select published    ranked by the near test sets, as published
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
exec "$python" "$root/run_scripts/search_weight.py" --data-dir "$root/data" --results-dir "$root/results" "$@"
