#!/bin/sh
# Like SDDE's scripts/uni/METHOD/DATASET_multiseed.sh: train seeds 1 to 5, evaluate them, and print the table.
#   run_scripts/sdde.sh gradcam cifar10               METHOD de ncl adp dice gradcam input_gradient oe gradcam-oe
#   run_scripts/sdde.sh de mnist SEEDS="1 2"          DATASET mnist cifar10 cifar100 imagenet imagenet200
#   run_scripts/sdde.sh gradcam imagenet PROCESSES=4  on four GPUs
usage() { sed -n 's/^# \{0,1\}//p' "$0" | tail -n +2; exit 2; }
[ $# -ge 2 ] || usage
method=$1 dataset=$2
shift 2
case $method in gradcam-oe) method=gradcam_oe ;; nlc) method=ncl ;; esac  # the release's names
case $method in de|ncl|adp|dice|gradcam|input_gradient|oe|gradcam_oe) ;; *) echo "sdde.sh: unknown method $method" >&2; usage ;; esac
case $dataset in
  mnist) model=lenet ;;
  cifar10|cifar100) model=resnet18_32x32 ;;
  imagenet) dataset=imagenet1k model=resnet50 ;;
  imagenet200) model=resnet50 ;;
  *) echo "sdde.sh: unknown data set $dataset" >&2; usage ;;
esac
root=$(dirname "$(readlink -f "$0")")/..
exec make --no-print-directory -C "$root" "reproduce-$(echo $dataset | sed s/1k//)" MODELS=$model METHODS="$method" "$@"
