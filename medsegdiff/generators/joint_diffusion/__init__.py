"""The joint diffusion model of image and mask: its mathematics, its training, its checkpoints.

Noise is variance-exploding throughout (x = x0 + sigma n, Karras et al. 2022): a DDPM enters as its table of
sigma_t = sqrt((1 - abar_t) / abar_t), its state being x / sqrt(1 + sigma^2).
"""
