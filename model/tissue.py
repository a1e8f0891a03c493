"""Find tissue by its colour in a thumbnail: glass is grey, stained tissue is not."""

import numpy as np
from numpy.typing import NDArray

BLUR_RADIUS_PX = 1
LEAST_CHROMA = 12
"""Glass stays below, whatever the lamp and the JPEG do: without it a blank slide is all tissue."""
MOST_CHROMA = 40
"""Tissue stays above: without it a slide full of tissue loses its paler half."""


def tissue_pixels(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels of a thumbnail (h, w, 3) show tissue, (h, w).

    The chroma (largest minus smallest channel) is smoothed and cut by Otsu's threshold. Chroma
    and not HSV saturation: the latter is a ratio, and noise in black pen or a dark edge.
    """
    red, green, blue = (thumbnail[..., channel] for channel in range(3))
    # Channel by channel, as reducing an axis of three takes ten times as long.
    most = np.maximum(np.maximum(red, green), blue)
    chroma = most - np.minimum(np.minimum(red, green), blue)
    smooth = box_blur(chroma, BLUR_RADIUS_PX)
    threshold = np.clip(otsu_threshold(smooth), LEAST_CHROMA, MOST_CHROMA)
    tissue: NDArray[np.bool_] = smooth > threshold
    return tissue


def box_blur(values: NDArray[np.uint8], radius_px: int) -> NDArray[np.uint8]:
    """Return the rounded mean of each pixel's square neighbourhood; the border is repeated."""
    side_px = 2 * radius_px + 1
    sums = np.pad(values, radius_px, mode="edge").astype(np.int64)
    for axis in (0, 1):
        running = np.cumsum(sums, axis=axis)
        before = np.insert(running, 0, 0, axis=axis)
        count = sums.shape[axis] - side_px + 1
        sums = before.take(range(side_px, side_px + count), axis) - before.take(range(count), axis)
    return np.round(sums / side_px**2).astype(np.uint8)


def otsu_threshold(values: NDArray[np.uint8]) -> int:
    """Return the level that parts values into two classes with the largest variance between.

    The lower class holds the level itself. Constant values give 0.

    Source: Otsu, A threshold selection method from gray-level histograms, IEEE Trans SMC 1979,
    equation 18.
    """
    share = np.bincount(values.ravel(), minlength=256) / values.size
    below = np.cumsum(share)
    moment = np.cumsum(share * np.arange(256))
    spread = below * (1 - below)
    parted = spread > 1e-12
    between = np.zeros(256)
    between[parted] = (moment[-1] * below[parted] - moment[parted]) ** 2 / spread[parted]
    return int(between.argmax())
