#!/bin/sh
# Create the environment that make uses.  make_venv.sh FOLDER PYTHON
echo "Creating $1 with PyTorch and other packages: about 3 minutes; 6 GB with CUDA"
"$2" -m venv "$1" && "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[dev]'
