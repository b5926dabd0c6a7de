"""Backbones, one a file: forward(x (B, C, *S), c_noise (B, M), cond) -> (B, C, *S). They know no process."""
