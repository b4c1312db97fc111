"""Follow faces from look to look, and decide which pictures of each are worth a message.

All times are `at` in seconds, as the frames carry them: wall clock for a live camera, media time for a file.
"""

import math
from dataclasses import dataclass

from .faces import Box

OVERLAP = 0.2  # least IoU that makes two boxes one face
REACH = 1.5  # box sides that a face may have moved where boxes no longer overlap
FORGET = 2.0  # s without a detection until a track ends
BETTER = 1.3  # times the quality, sharpness x size, that makes a picture worth sending before its time
RUSH = 0.25  # of the interval must pass even so, or a face coming into focus is sent ten times


@dataclass
class Track:
    """One face, followed from detection to detection."""

    number: int
    box: Box
    seen: float  # when it was detected last
    sent: float = -math.inf  # when it was published last
    best: float = 0.0  # quality of the best picture published


def affinity(a: Box, b: Box) -> float:
    """How likely two boxes are one face: their IoU if they overlap, else minus the distance in box sides."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    iou = both / (a[2] * a[3] + b[2] * b[3] - both)
    if iou >= OVERLAP:
        return iou
    distance = math.hypot(a[0] - b[0] + (a[2] - b[2]) / 2, a[1] - b[1] + (a[3] - b[3]) / 2)
    return -distance / max(min(*a[2:], *b[2:]), 1)


def match(tracks: list[Box], faces: list[Box]) -> dict[int, int]:
    """Which face (index) belongs to which track (index), dealt greedily, the surest pair first."""
    pairs = [(affinity(t, f), i, j) for i, t in enumerate(tracks) for j, f in enumerate(faces)]
    matched: dict[int, int] = {}  # face -> track
    for likeness, i, j in sorted(pairs, reverse=True):
        if likeness > -REACH and j not in matched and i not in matched.values():
            matched[j] = i
    return matched


class Tracker:
    """Follows faces, and says each one on first sight, then once an `interval` (s), and when it looks better.

    An interval of 0 says every detection.
    """

    def __init__(self, interval: float = 1.0):
        self.interval = interval
        self.tracks: list[Track] = []
        self.last = 0

    def follow(self, boxes: list[Box], at: float) -> list[Track]:
        """The track of each box, in the order of the boxes; a new one for a box that belongs to none."""
        self.tracks = [t for t in self.tracks if 0 <= at - t.seen <= FORGET]
        matched = match([t.box for t in self.tracks], boxes)
        known = list(self.tracks)
        followed = []
        for index, box in enumerate(boxes):
            track = known[matched[index]] if index in matched else self.start(box, at)
            track.box, track.seen = box, at
            followed.append(track)
        return followed

    def start(self, box: Box, at: float) -> Track:
        """A new track, which begins with `box`."""
        self.last += 1
        self.tracks.append(Track(self.last, box, at))
        return self.tracks[-1]

    def worth(self, track: Track, quality: float, at: float) -> bool:
        """Whether a picture of the track is due, or clearly the best so far; noted if so."""
        since = at - track.sent + 0.001  # s; grace for rounded times
        better = quality > BETTER * track.best and since >= RUSH * self.interval
        if since < self.interval and not better:
            return False
        track.sent, track.best = at, max(track.best, quality)
        return True
