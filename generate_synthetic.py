"""Phase 3: sample new labelled pairs from a checkpoint, as many of each class as wanted. See --help."""

import sys

from medsegdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["generate", *sys.argv[1:]]))
