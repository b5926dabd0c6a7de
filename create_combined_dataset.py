"""Phase 4: add synthetic pairs to the train split of a real sample folder. See --help."""

import sys

from medsegdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["combine", *sys.argv[1:]]))
