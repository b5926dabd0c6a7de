"""Phase 5: train a segmentation model and score it on the real test pictures. See --help."""

import sys

from medsegdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["segment", *sys.argv[1:]]))
