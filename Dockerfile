# docker build -t dismax-sdde .        for CPUs; for NVIDIA GPUs add
#   --build-arg TORCH=https://download.pytorch.org/whl/cu128
# docker run --rm -it -v "$PWD/results:/reproduction/results" dismax-sdde make demo
# The image has no .git, so config.json of a run that is made in it names no commit.
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu

RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /reproduction
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url "$TORCH" torch torchvision && pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir -e '.[dev]'

# Make uses this environment and makes no .venv
ENV PY=python3
CMD ["make", "demo"]
