#!/bin/sh
# The outlier sets of ImageNet-1k, which itself is used where you keep it: IMAGENET_DIR, or links in data/imagenet1k.
# Takes the options of prepare.py: --mirror FOLDER, --dry-run, --jobs 4 …, and names of more sets.
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/..")
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
exec "$python" "$root/data/prepare.py" --benchmark dismax --benchmark openood --for imagenet1k "$@"
