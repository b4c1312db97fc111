"""When to look for faces, and where. Times are `at` in s, as the frames carry them."""

import math

import cv2
import numpy as np
from cv2.typing import MatLike

from .faces import Box, Detect, Face, cut, shrink
from .tracks import affinity

# No face was lost with these on the clips they were measured on (`make bench`, static scene).
WIDTH = 160  # px: a face of 64 px in 1280 is still 8 px wide
STEP = 15  # gray levels: over the noise of a sensor at night
PIXELS = 4  # px: a blinking status lamp is less
FORCED = 1.0  # s: even where nothing moves, look once in a while
NEAR = 64  # px: the surroundings of a face, 2.4 box sides, are looked at so wide; the face is 27 px then


class Motion:
    """Compares each frame with the last one that was looked at, in gray and small."""

    def __init__(self, max_fps: float = 10.0):
        self.pause = 1 / max_fps - 0.001  # s; a millisecond of grace for rounded times
        self.looked = -math.inf
        self.seen: MatLike = np.empty((0, 0), np.uint8)
        self.share = 1.0  # of the picture had changed at the last look; all of it where the size did

    def moved(self, frame: MatLike, at: float) -> bool:
        """Whether to look: not within 1/max_fps s; always after FORCED s, or when the clock was set back."""
        since = at - self.looked
        if 0 <= since < self.pause:
            return False
        small = shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), WIDTH)  # gray first is half the work
        same_size = small.shape == self.seen.shape
        pixels = np.count_nonzero(cv2.absdiff(small, self.seen) > STEP) if same_size else small.size
        if pixels < PIXELS and 0 <= since < FORCED:
            return False
        self.looked, self.seen, self.share = at, small, pixels / small.size
        return True


def find_near(detect: Detect, frame: MatLike, boxes: list[Box]) -> list[Face]:
    """The face nearest to each box that `detect` finds around it; each face once."""
    found: list[Face] = []
    for x, y, w, h in boxes:
        side = max(w, h)  # square, so that the network keeps one input size
        part, left, top = cut(frame, (x + (w - side) // 2, y + (h - side) // 2, side, side), 0.7, 0.7)
        faces = [Face((f.box[0] + left, f.box[1] + top, *f.box[2:]), f.score) for f in detect(part)]
        nearest = max(faces, key=lambda face: affinity(face.box, (x, y, w, h)), default=None)
        if nearest and all(affinity(nearest.box, other.box) <= 0 for other in found):
            found.append(nearest)
    return found
