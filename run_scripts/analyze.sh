#!/bin/sh
# Tables of all runs, next to the papers' numbers. Takes the options of analyze.py.
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
. "$root/run_scripts/find_python.sh"
exec "$python" "$root/analyze.py" --results-dir "$root/results" "$@"
