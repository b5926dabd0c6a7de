"""Phase 2: learn the joint distribution of image and lesion mask from a sample folder. See --help."""

import sys

from medsegdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
