#!/bin/sh
# Tables of all runs, next to the papers' numbers. Takes the options of analyze.py.
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
exec "$python" "$root/analyze.py" --results-dir "$root/results" "$@"
