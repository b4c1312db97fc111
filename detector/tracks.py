"""Follow faces from look to look, and decide which pictures of each are worth a message.

All times are `at` in seconds, as the frames carry them: wall clock for a live camera, media time for a file.
"""

import math
import secrets
from dataclasses import dataclass, field

from .faces import Box, Look

OVERLAP = 0.2  # least IoU that makes two boxes one face
REACH = 1.5  # box sides that a face may have moved where boxes no longer overlap
FORGET = 15.0  # s that a visit waits for somebody who looks away
# Bhattacharyya distance of two looks from which they are two people's. 20 clips of 5 people in one place:
# 0.25 is the 99 % of one person in one clip, 0.31 the 95 % between clips; of two people 7 % are below 0.28
OTHER = 0.28
BETTER = 1.3  # times the quality, sharpness x size, that makes a picture worth sending before its time
RUSH = 0.25  # of the interval must pass even so, or a face coming into focus is sent ten times


@dataclass
class Track:
    """One visit: a face, followed from detection to detection."""

    number: int  # rising
    box: Box
    look: Look
    seen: float  # when it was detected last
    sent: float = -math.inf  # when it was published last
    pause: float = 0.0  # s from then until the next picture is due
    best: float = 0.0  # quality of the best picture published
    id: str = field(default_factory=lambda: secrets.token_hex(4))  # the first half of its faces' ids


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


def difference(a: Look, b: Look) -> float:
    """Bhattacharyya distance of two looks, 0 to 1."""
    return math.sqrt(max(1 - sum(p * q for p, q in zip(a, b, strict=True)), 0))


def match(tracks: list[Track], boxes: list[Box], looks: list[Look]) -> dict[int, Track]:
    """Which face (index) belongs to which track, dealt greedily, the surest pair first."""
    near = [(affinity(t.box, box), n, j) for n, t in enumerate(tracks) for j, box in enumerate(boxes)]
    matched: dict[int, Track] = {}
    for likeness, n, j in sorted(near, reverse=True):
        free = likeness > -REACH and j not in matched and tracks[n] not in matched.values()
        if free and difference(tracks[n].look, looks[j]) < OTHER:
            matched[j] = tracks[n]
    return matched


class Tracker:
    """Follows faces, and says of which a picture is worth sending.

    On first sight, when it looks better, and after pauses that double from `interval` to `longest` s.
    An interval of 0 says every detection.
    """

    def __init__(self, interval: float = 1.0, longest: float = 60.0):
        self.interval = interval
        self.longest = max(longest, interval)
        self.tracks: list[Track] = []
        self.last = 0

    def follow(self, boxes: list[Box], looks: list[Look], at: float) -> list[Track]:
        """The track of each box, in the order of the boxes; a new one for a box that belongs to none."""
        self.tracks = [t for t in self.tracks if 0 <= at - t.seen <= FORGET]
        matched = match(self.tracks, boxes, looks)
        followed = []
        for index, (box, look) in enumerate(zip(boxes, looks, strict=True)):
            track = matched.get(index) or self.start(box, look, at)
            track.box, track.look, track.seen = box, look, at
            followed.append(track)
        return followed

    def start(self, box: Box, look: Look, at: float) -> Track:
        """A new track, which begins with `box`."""
        self.last += 1
        self.tracks.append(Track(self.last, box, look, at))
        return self.tracks[-1]

    def worth(self, track: Track, quality: float, at: float) -> bool:
        """Whether a picture of the track is due, or clearly the best so far; noted if so."""
        since = at - track.sent + 0.001  # s; grace for rounded times
        due = since >= track.pause
        better = quality > BETTER * track.best and since >= RUSH * min(self.interval, 1)
        if due:
            track.pause = min(track.pause * 2 or self.interval, self.longest)
        if due or better:
            track.sent, track.best = at, max(track.best, quality)
        return due or better
