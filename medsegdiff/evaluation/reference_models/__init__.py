"""Networks trained on the real train split, whose predictions the evaluation uses."""
