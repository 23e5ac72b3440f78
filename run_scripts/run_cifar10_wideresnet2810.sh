#!/bin/sh
# DisMax, Table 2: CIFAR-10 × WideResNet-28-10, five losses × five seeds, evaluated, and the table. SEEDS=1 EPOCHS=1 … narrow it.
root=$(dirname "$(readlink -f "$0")")/..
exec make --no-print-directory -C "$root" reproduce-cifar10 MODELS=wideresnet2810 "$@"
