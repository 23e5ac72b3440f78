#!/bin/sh
# Run the tests with the oldest versions that requirements.txt allows, in .venv-lowest.  LOWEST=python3.10 test_lowest.sh
cd "$(dirname "$0")/.." || exit
"${LOWEST:-python3.10}" -m venv .venv-lowest || exit
sed 's/>=/==/' requirements.txt > .venv-lowest/requirements.txt
.venv-lowest/bin/python -m pip install --quiet -r .venv-lowest/requirements.txt \
  pytest pytest-randomly pytest-xdist setuptools wheel || exit
exec make --no-print-directory test PY=.venv-lowest/bin/python
