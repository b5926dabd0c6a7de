"""What a sample can be conditioned on: one condition a file, one row a condition in `registry`."""
