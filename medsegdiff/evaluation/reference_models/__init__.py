"""Networks trained on the real train split, whose prediction the evaluation asks."""
