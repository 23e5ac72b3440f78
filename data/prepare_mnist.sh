#!/bin/sh
# MNIST, FashionMNIST and the sets that their runs are tested against: downloaded or taken from a mirror, verified.
# Takes the options of prepare.py: --mirror FOLDER, --dry-run, --jobs 4 …, and names of more sets.
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
exec "$python" "$root/data/prepare.py" --benchmark dismax --benchmark openood --for mnist --for fashion_mnist "$@"
