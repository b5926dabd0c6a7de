"""Networks trained on the real train split, whose opinion the evaluation asks."""
