# Sets $python for the scripts that do not use make: PY, the environment of make, or the python3 on the PATH. Sourced.
python=${PY:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
"$python" -c 'import importlib.util as u; exit(not all(map(u.find_spec, ("torch", "pandas", "tabulate"))))' || {
  echo "$(basename "$0"): ${python:-python3} lacks packages of requirements.txt. \`make prepare-data\` creates an" \
    "environment that has them; or name one: PY=…/bin/python $0" >&2
  exit 1
}
