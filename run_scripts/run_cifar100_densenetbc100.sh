#!/bin/sh
# DisMax, Table 2, CIFAR-100 × DenseNetBC100: runs of five losses × five seeds, and their table. SEEDS=1, EPOCHS=1 … select a part.
root=$(dirname "$(readlink -f "$0")")/..
exec make --no-print-directory -C "$root" reproduce-cifar100 MODELS=densenetbc100 "$@"
