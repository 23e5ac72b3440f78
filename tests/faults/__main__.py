"""Everything that can go wrong, in full: kills, damaged files, mutated pictures. The test suite does a part of it.

  make torture KILLS=600        or: python -m tests.faults --kills 600 --seed 1 --only kills
"""
import argparse
import sys
from collections import Counter

from tests.faults import campaign, damage, mutated_pictures


def kills(args):
    counts = campaign.run(args.kills, args.seed)
    print("\n".join(f"{count:6} {what}" for what, count in sorted(counts.items())))
    print("every file was whole or absent; everything that was let finish had the same bits\n")
    return 0


def damages(args):
    broken, count = damage.run(None, args.seed)
    print(f"{count:6} damaged files, {len(broken)} promises broken\n")
    return len(broken)


def pictures(args):
    counts, broken = mutated_pictures.run(args.pictures, args.seed)
    print("\n".join(f"{count:6} {what}" for what, count in sorted(Counter(counts).items())))
    print("\n".join(broken))
    return len(broken)


PARTS = {"kills": kills, "damages": damages, "pictures": pictures}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=2_600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    sys.exit(bool(sum(part(args) for name, part in PARTS.items() if args.only in (None, name))))
