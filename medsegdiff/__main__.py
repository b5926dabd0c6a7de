"""`python -m medsegdiff` is the `medsegdiff` command."""

from medsegdiff.cli import console

if __name__ == "__main__":
    console()
