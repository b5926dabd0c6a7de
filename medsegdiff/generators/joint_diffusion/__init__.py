"""Pure mathematics of the joint diffusion model; knows no files and no data set.

Noise is variance-exploding throughout (x = x0 + sigma n, Karras et al. 2022): a DDPM enters as its table of
sigma_t = sqrt((1 - abar_t) / abar_t), its state being x / sqrt(1 + sigma^2).
"""
