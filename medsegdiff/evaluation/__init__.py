"""How realistic, varied, true to their masks and private synthetic pairs are."""
