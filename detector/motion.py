"""When to look for faces. Times are `at` in s, as the frames carry them."""

import math

import cv2
import numpy as np

from .faces import shrink

# No face was lost with these on the clips they were measured on (`make bench`, static scene).
WIDTH = 160  # px: a face of 64 px in 1280 is still 8 px wide
STEP = 15  # gray levels: over the noise of a sensor at night
PIXELS = 4  # px: a blinking status lamp is less
FORCED = 1.0  # s: even where nothing moves, look once in a while


class Motion:
    """Compares each frame with the last one that was looked at, in gray and small."""

    def __init__(self, max_fps: float = 10.0):
        self.pause = 1 / max_fps - 0.001  # s; a millisecond of grace for rounded times
        self.looked = -math.inf
        self.seen: cv2.typing.MatLike = np.empty((0, 0), np.uint8)

    def moved(self, frame: cv2.typing.MatLike, at: float) -> bool:
        """Whether to look: not within 1/max_fps s; always after FORCED s, or when the clock was set back."""
        since = at - self.looked
        if 0 <= since < self.pause:
            return False
        small = shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), WIDTH)  # gray first is half the work
        still = 0 <= since < FORCED and small.shape == self.seen.shape
        if still and np.count_nonzero(cv2.absdiff(small, self.seen) > STEP) < PIXELS:
            return False
        self.looked, self.seen = at, small
        return True
