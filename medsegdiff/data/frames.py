"""The border that all images of a data set share, such as a scanner's bars, text and depth scale.

A perceptual hash or a correlation of whole screenshots sees the border, and takes all of them for one scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from medsegdiff.data.hashing import Frame, to_grey

FEWEST = 8  # images below which nothing is said: few may look alike by chance
MOST_LOOKED_AT = 60  # images that are compared, evenly over all
SHARE = 0.9  # of the images have one size, or there is no common border
STILL = 6.0  # standard deviation over the images, grey values, up to which a pixel is still
SMALLEST_BORDER = 0.1  # least share of the image that a border takes, or it does not matter
SIDE = 128  # of the small copies


def shared_frame(images: Sequence[np.ndarray]) -> Frame | None:
    """Where the scans lie in the images, as shares of the sides (top, left, bottom, right), if all share a border.

    Text that changes from image to image (a name, a date) does not count as scan: it is thin.
    """
    sizes = Counter(image.shape[:2] for image in images)
    if not sizes or sizes.most_common(1)[0][1] < max(FEWEST, SHARE * len(images)):
        return None
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_LOOKED_AT)).round().astype(int)
    small = [cv2.resize(to_grey(images[i]), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for i in chosen]
    moves = (np.std(np.stack(small).astype(np.float32), axis=0) > STILL).astype(np.uint8)
    scan = cv2.morphologyEx(moves, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    scan = cv2.morphologyEx(scan, cv2.MORPH_OPEN, np.ones((13, 13), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(scan)
    if count < 2:
        return None
    left, top, width, height, _ = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    if width * height > (1 - SMALLEST_BORDER) * SIDE**2:
        return None
    top, left, bottom, right = (round(value / SIDE, 4) for value in (top, left, top + height, left + width))
    return top, left, bottom, right
