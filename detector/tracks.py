"""Follow faces from look to look, and decide which pictures are worth a message. Times are `at` in s, as in frames."""

import math
import secrets
from dataclasses import dataclass, field

import cv2

from .faces import Box, Detect, Face, Look, cut

REACH = 1.5  # box sides that a face may have moved between two looks
STILL = 0.5  # box sides that it may have moved to be still there
FORGET = 15.0  # s that a visit waits for somebody who looks away
# Bhattacharyya distance of two looks from which they are two people's. 20 clips of 5 people in one place:
# 0.25 is the 99 % of one person in one clip, 0.31 the 95 % between clips; of two people 7 % are below 0.28
OTHER = 0.28
BETTER = 1.3  # times the quality, sharpness x size, that makes a picture worth sending before its time
RUSH = 0.25  # of the interval must pass even so, or a face coming into focus is sent ten times
NEAR = 64  # px: the surroundings of a face, 2.4 box sides, are looked at so wide; the face is 27 px then


@dataclass(eq=False)
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


def distance(a: Box, b: Box) -> float:
    """Between the centres of two boxes, in sides of the smaller."""
    away = math.hypot(a[0] - b[0] + (a[2] - b[2]) / 2, a[1] - b[1] + (a[3] - b[3]) / 2)
    return away / min(*a[2:], *b[2:])


def find_near(detect: Detect, frame: cv2.typing.MatLike, boxes: list[Box]) -> list[Face]:
    """The faces that still are where one was: `detect` gets the surroundings of each box."""
    found: list[Face] = []
    for x, y, w, h in boxes:
        side = max(w, h)  # square, so that the network keeps one input size
        part, left, top = cut(frame, (x + (w - side) // 2, y + (h - side) // 2, side, side), 0.7, 0.7)
        faces = [Face((f.box[0] + left, f.box[1] + top, *f.box[2:]), f.score) for f in detect(part)]
        found += [face for face in faces if distance(face.box, (x, y, w, h)) < STILL]
    return found


def match(tracks: list[Track], boxes: list[Box], looks: list[Look]) -> dict[int, Track]:
    """Which face (index) belongs to which track, dealt greedily, the nearest pair first."""
    pairs = [(distance(t.box, box), n, j) for n, t in enumerate(tracks) for j, box in enumerate(boxes)]
    matched: dict[int, Track] = {}
    for away, n, j in sorted(pairs):
        free = away < REACH and j not in matched and tracks[n] not in matched.values()
        if free and cv2.compareHist(tracks[n].look, looks[j], cv2.HISTCMP_BHATTACHARYYA) < OTHER:
            matched[j] = tracks[n]
    return matched


class Tracker:
    """Follows faces, and says of which a picture is worth sending; an interval of 0 says every detection."""

    def __init__(self, interval: float = 1.0, longest: float = 60.0):
        self.interval, self.longest = interval, max(longest, interval)
        self.tracks: list[Track] = []
        self.last = 0  # the number of the newest track

    def follow(self, boxes: list[Box], looks: list[Look], at: float) -> list[Track]:
        """The track of each box, in the order of the boxes; a new one for a box that belongs to none."""
        self.tracks = [t for t in self.tracks if 0 <= at - t.seen <= FORGET]
        matched = match(self.tracks, boxes, looks)
        for index, (box, look) in enumerate(zip(boxes, looks, strict=True)):
            if index not in matched:
                self.last += 1
                matched[index] = Track(self.last, box, look, at)
                self.tracks.append(matched[index])
            track = matched[index]
            track.box, track.look, track.seen = box, look, at
        return [matched[index] for index in range(len(boxes))]

    def worth(self, track: Track, quality: float, at: float) -> bool:
        """Whether a picture is due (first sight, then pauses that double), or clearly the best so far; noted if so."""
        since = at - track.sent + 0.001  # s; grace for rounded times
        if since >= track.pause:
            track.pause = min(track.pause * 2 or self.interval, self.longest)
        elif quality <= BETTER * track.best or since < RUSH * min(self.interval, 1):
            return False
        track.sent, track.best = at, max(track.best, quality)
        return True
