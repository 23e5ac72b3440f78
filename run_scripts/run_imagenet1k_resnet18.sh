#!/bin/sh
# DisMax, ImageNet table, ResNet18: runs of five losses with one seed. Needs IMAGENET_DIR or data/imagenet1k.
root=$(dirname "$(readlink -f "$0")")/..
[ -z "$IMAGENET_DIR" ] || IMAGENET_DIR=$(readlink -f "$IMAGENET_DIR")
export IMAGENET_DIR
exec make --no-print-directory -C "$root" reproduce-imagenet "$@"
