"""medsegdiff: labelled breast-ultrasound data from a joint diffusion model of image and lesion mask."""

__version__ = "0.1.0"
