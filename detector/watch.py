"""Looks at the frames of one camera, and puts the faces that are worth sending into the spool."""

import math
import os
import re
import secrets
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike

from service import Settings, log

from .faces import Face, crop, encode, look, open_detector, sharpness
from .live import Frame
from .motion import Motion
from .spool import Spool
from .tracks import NEAR, Track, Tracker, find_near

CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png"}
PART = r"(?:0?\.\d+|[01](?:\.0*)?)"  # of the frame's width or height
POLYGON = rf"{PART},{PART}(?: {PART},{PART}){{2,}}"
MODEL = "face.onnx"  # where `make model` puts it
# s between two looks at the whole frame: with no face in sight, and with some, which are looked at meanwhile
SWEEP = 0.25, 1.0


class Options:
    """The settings of the camera, the faces and their pictures; what is bad is noted in `settings`."""

    def __init__(self, settings: Settings) -> None:
        text, number = settings.text, settings.number
        self.camera = text(
            "CAMERA", "0", r"(?s).+", "give a number, a device, a URL, a video file or a folder of images"
        )
        self.name = text("CAMERA_NAME", "cam0", r"[\w-]{1,64}", "up to 64 letters, digits, dashes")
        size = text("CAMERA_SIZE", "1280x720", r"[1-9]\d{1,4}x[1-9]\d{1,4}", "give WIDTHxHEIGHT in px")
        self.size = [int(side) for side in re.findall(r"\d+", size)]
        self.model = text("FACE_MODEL", MODEL * Path(MODEL).is_file() or "haar", r".+", "give a file, or haar")
        self.width = int(number("FACE_WIDTH", 640, 32, 4096))
        self.min_size = number("FACE_MIN_SIZE", 0, 0, 4096)
        self.min_score = number("FACE_MIN_SCORE", 0, 0, 1000)
        remedy = "give polygons as x,y x,y x,y; each in parts of the frame, from 0 to 1"
        zone = re.findall(POLYGON, text("FACE_ZONE", "", rf"(?:{POLYGON}(?:; ?{POLYGON})*)?", remedy))
        self.zone = [np.array(re.findall(r"[\d.]+", polygon), np.float32).reshape(-1, 2) for polygon in zone]
        self.max_fps = number("MAX_FPS", 10, 0.1, 1000)
        self.interval = number("FACE_INTERVAL", 1, 0, 86400)
        self.longest = number("FACE_INTERVAL_MAX", 60, 0, 86400)
        self.margin = number("FACE_MARGIN", 0.2, 0, 2)
        self.max_side = int(number("FACE_MAX_SIDE", 512, 16, 4096))
        self.format = text("FACE_FORMAT", "jpg", "jpg|png", "give jpg or png")
        self.quality = int(number("FACE_QUALITY", 90, 1, 100))
        self.show = text("SHOW", "0", "[01]", "1 opens a window, 0 does not") == "1"
        if self.show and sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            settings.bad.append("SHOW=1: there is no display; set DISPLAY, or SHOW=0")


class Watch:
    def __init__(self, options: Options, spool: Spool) -> None:
        self.options, self.spool = options, spool
        self.detect = open_detector(options.model, options.width, options.min_score)
        self.detect_near = open_detector(options.model, NEAR, options.min_score)
        self.motion = Motion(options.max_fps)
        self.tracker = Tracker(options.interval, options.longest)
        self.swept = -math.inf  # when the whole frame was looked at last
        self.faces: list[Face] = []
        self.counts = Counter(frames=0, faces=0)

    def look(self, frame: Frame) -> None:
        """Spool the faces of a frame that are worth sending."""
        self.counts["frames"] += 1
        image, at, options = frame.image, frame.at, self.options
        # Who asks for every detection of every frame gets exactly that
        if options.interval == 0 or self.motion.moved(image, at):
            self.faces = [face for face in self.find(image, at) if self.wanted(face, image)]
            boxes = [face.box for face in self.faces]
            tracks = self.tracker.follow(boxes, [look(image, box) for box in boxes], at)
            for face, track in zip(self.faces, tracks, strict=True):
                picture = crop(image, face.box, options.margin, options.max_side)
                sharp = sharpness(picture)
                if self.tracker.worth(track, sharp * min(face.box[2:]), at):
                    self.keep(picture, frame, face, sharp, track)
        if options.show:
            show(options, image, self.faces)

    def find(self, image: MatLike, at: float) -> list[Face]:
        """Find the faces of a frame: all, or between sweeps those that were there at the last look."""
        boxes = [face.box for face in self.faces]
        if self.options.interval and 0 <= at - self.swept < SWEEP[bool(boxes)]:
            faces = find_near(self.detect_near, image, boxes)
            if len(faces) == len(boxes):
                return faces
        self.swept = at
        return self.detect(image)

    def wanted(self, face: Face, image: MatLike) -> bool:
        x, y, w, h = face.box
        centre = (x + w / 2) / image.shape[1], (y + h / 2) / image.shape[0]
        inside = [cv2.pointPolygonTest(polygon, centre, False) >= 0 for polygon in self.options.zone]
        return min(w, h) >= self.options.min_size and (any(inside) or not inside)

    def keep(self, picture: MatLike, frame: Frame, face: Face, sharp: float, track: Track) -> None:
        """Put a picture into the spool, with the user properties of its message (`seq` is the spool's)."""
        captured_at = datetime.fromtimestamp(frame.at, timezone.utc).isoformat(timespec="milliseconds")
        properties = {
            "id": track.id + secrets.token_hex(4),
            "camera": self.options.name,
            "captured_at": captured_at.replace("+00:00", "Z"),
            "box": ",".join(map(str, face.box)),
            "frame_size": f"{frame.image.shape[1]}x{frame.image.shape[0]}",
            "score": f"{face.score:.3f}",
            "sharpness": f"{sharp:.1f}",
            "track": str(track.number),
            "schema": "1",
        }
        payload = encode(picture, self.options.format, self.options.quality, self.spool.max_face)
        self.spool.add(properties["id"], CONTENT_TYPES[self.options.format], properties, payload)
        self.counts["faces"] += 1
        log("face", id=properties["id"], box=properties["box"], track=properties["track"], bytes=len(payload))


def show(options: Options, image: MatLike, faces: list[Face]) -> None:
    """Draw the zone and a box around each face into a frame, and show it in a window; for setting up a camera."""
    for face in faces:
        cv2.rectangle(image, face.box, (0, 255, 0), 2)
    size = image.shape[1::-1]
    cv2.polylines(image, [(polygon * size).astype(np.int32) for polygon in options.zone], True, (255, 255, 0), 2)
    cv2.imshow(options.name, image)
    cv2.waitKey(1)
