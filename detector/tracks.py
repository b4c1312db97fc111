"""Decide when to look for faces, and which of the faces found are worth a message.

All times are `at` in seconds, as the frames carry them: wall clock for a live camera, media time for a file.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

from .faces import Box, Face, crop, sharpness, shrink

# The gate: no face was lost with these on the clips they were measured on (docs: `make bench`, static scene).
GATE_WIDTH = 160  # px: a face of 64 px in 1280 is still 8 px wide
GATE_STEP = 15  # gray levels: over the noise of a sensor at night
GATE_PIXELS = 4  # px: a blinking status lamp is less
FORCED = 1.0  # s: even where nothing moves, look once in a while

# The tracker.
OVERLAP = 0.2  # least IoU that makes two boxes one face
REACH = 1.5  # box sides that a face may have moved where boxes no longer overlap
FORGET = 2.0  # s without a detection until a track ends
BETTER = 1.3  # times sharpness x size that makes a picture worth sending before its time
RUSH = 0.25  # of the interval must pass even so, or a face coming into focus is sent ten times


def gray_copy(frame: MatLike) -> MatLike:
    """A gray copy of the frame, GATE_WIDTH px wide; gray first, which is half the work of colour first."""
    return shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), GATE_WIDTH)


def changed(one: MatLike, other: MatLike) -> int:
    """How many pixels differ by more than GATE_STEP between two gray copies; all of them if sizes differ."""
    if one.shape != other.shape:
        return one.size
    _, mask = cv2.threshold(cv2.absdiff(one, other), GATE_STEP, 1, cv2.THRESH_BINARY)
    return cv2.countNonZero(mask)


class Motion:
    """The gate before the detector: is this frame worth a look?"""

    def __init__(self, max_fps: float = 10.0):
        self.pause = 1 / max_fps - 0.001  # s; a millisecond of grace for rounded times
        self.looked = -math.inf
        self.seen: MatLike | None = None

    def moved(self, frame: MatLike, at: float) -> bool:
        """Whether to look for faces in `frame`, which is compared with the last one that was looked at.

        No sooner than 1/max_fps s after that one; always after FORCED s, or when the clock was set back.
        """
        since = at - self.looked
        if 0 <= since < self.pause:
            return False
        small = gray_copy(frame)
        if self.seen is not None and 0 <= since < FORCED and changed(small, self.seen) < GATE_PIXELS:
            return False
        self.looked, self.seen = at, small
        return True


class Sighting(NamedTuple):
    """A face worth publishing."""

    face: Face
    track: int  # the same number for the same face, as long as it is followed; rising
    sharpness: float  # see faces.sharpness


@dataclass
class Track:
    """One face, followed from detection to detection."""

    number: int
    box: Box
    seen: float  # when it was detected last
    sent: float = -math.inf  # when it was published last
    best: float = 0.0  # sharpness x size of the best picture published


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

    def update(self, frame: MatLike, faces: list[Face], at: float) -> list[Sighting]:
        """The faces of this frame that are worth publishing."""
        self.tracks = [t for t in self.tracks if 0 <= at - t.seen <= FORGET]
        matched = match([t.box for t in self.tracks], [f.box for f in faces])
        known = list(self.tracks)
        sightings = []
        for index, face in enumerate(faces):
            track = known[matched[index]] if index in matched else self.start(face, at)
            track.box, track.seen = face.box, at
            sharp = sharpness(crop(frame, face.box, margin=0))
            if self.worth(track, sharp * min(face.box[2:]), at):
                sightings.append(Sighting(face, track.number, sharp))
        return sightings

    def start(self, face: Face, at: float) -> Track:
        """A new track for a face that belongs to none."""
        self.last += 1
        self.tracks.append(Track(self.last, face.box, at))
        return self.tracks[-1]

    def worth(self, track: Track, quality: float, at: float) -> bool:
        """Whether this picture of the track is due, or clearly the best so far; noted if so."""
        since = at - track.sent + 0.001  # s; grace for rounded times
        better = quality > BETTER * track.best and since >= RUSH * self.interval
        if since < self.interval and not better:
            return False
        track.sent, track.best = at, max(track.best, quality)
        return True
