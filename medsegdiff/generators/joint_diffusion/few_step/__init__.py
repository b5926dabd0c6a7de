"""Few-step training: a trained denoiser learns to sample in a few network calls, against discriminators."""
