"""Content hashes of pictures: exact (SHA-256 of pixels) and perceptual (DCT), and distances between them.

The perceptual hash follows Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): signs
of low-frequency DCT coefficients of a small grey copy, here 16 x 16 of 64 x 64 (256 bits instead of 64, because all
breast ultrasound looks alike to a coarse hash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np

Frame = tuple[float, float, float, float]  # where the scan lies: top, left, bottom, right, shares of the sides
HASH_SIDE = 16
THUMB_SIDE = 64


def content_hash(picture: np.ndarray) -> str:
    """SHA-256, hexadecimal, of the shape and pixels of a uint8 picture (not of its PNG coding)."""
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of a (H, W) grey or (H, W, 3) RGB image."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def inside(image: np.ndarray, frame: Frame | None) -> np.ndarray:
    """The part of an image within the frame that all images of its data set share; the whole where there is none."""
    if frame is None:
        return image
    height, width = image.shape[:2]
    top, left, bottom, right = (round(part * side) for part, side in zip(frame, (height, width) * 2, strict=True))
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def perceptual_hash(image: np.ndarray, frame: Frame | None = None) -> str:
    """256-bit DCT hash of a (H, W) or (H, W, 3) uint8 image, within `frame`, as 64 hexadecimal digits."""
    grey = to_grey(inside(image, frame))
    thumb = cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(thumb)[:HASH_SIDE, :HASH_SIDE].ravel()
    low[0] = 0.0  # mean brightness says nothing about content
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def hash_bits(hashes: Sequence[str]) -> np.ndarray:
    """(N, 256) array of {0, 1} from N hexadecimal hashes."""
    if not hashes:
        return np.zeros((0, HASH_SIDE**2), dtype=np.uint8)
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(raw, axis=1)


def hash_distances(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """(N, K) Hamming distances, in bits, between N and K perceptual hashes."""
    a = hash_bits(first).astype(np.float32)
    b = hash_bits(second).astype(np.float32)
    return (a @ (1 - b).T + (1 - a) @ b.T).astype(np.int32)
