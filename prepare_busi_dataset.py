"""Phase 1: read a raw BUSI folder, find duplicates, split, write a sample folder. See --help."""

import sys

from medsegdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare", *sys.argv[1:]]))
