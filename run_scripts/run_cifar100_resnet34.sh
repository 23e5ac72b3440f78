#!/bin/sh
# DisMax, Table 2: CIFAR-100 × ResNet34, five losses × five seeds, evaluated, and the table. SEEDS=1 EPOCHS=1 … narrow it.
root=$(dirname "$(readlink -f "$0")")/..
exec make --no-print-directory -C "$root" reproduce-cifar100 MODELS=resnet34 "$@"
