"""Looks at the frames of one camera, and puts the faces that are worth sending into the spool."""

import math
import re
import secrets
import sys
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from service import Settings, log

from .faces import Face, crop, encode, look, open_detector, sharpness
from .live import Frame
from .motion import Motion
from .spool import Spool
from .tracks import NEAR, Track, Tracker, find_near

PART = r"(0?\.\d+|[01](?:\.0*)?)"  # of the frame's width or height
POINT = f"{PART},{PART}"
POLYGON = f"{POINT}( {POINT}){{2,}}"
MODEL = "face.onnx"  # where `make model` puts it
# s between two looks at the whole frame: with no face in sight, and with some, which are looked at meanwhile
SWEEP = 0.25, 1.0


class Options:
    def __init__(self, settings: Settings) -> None:
        self.camera = settings.text("CAMERA", "0", r"(?s).+", "give a device, a URL, a video file or a folder")
        self.name = settings.text("CAMERA_NAME", "cam0", r"[\w-]{1,64}", "up to 64 letters, digits, dashes")
        size = settings.text("CAMERA_SIZE", "1280x720", r"[1-9]\d{1,4}x[1-9]\d{1,4}", "give WIDTHxHEIGHT in px")
        self.size = [int(side) for side in re.findall(r"\d+", size)]
        self.model = settings.text("FACE_MODEL", MODEL * Path(MODEL).is_file() or "haar", ".+", "give a file, or haar")
        self.width = int(settings.number("FACE_WIDTH", 640, 32, 4096))
        self.min_size = settings.number("FACE_MIN_SIZE", 0, 0, 4096)
        self.min_score = settings.number("FACE_MIN_SCORE", 0, 0, 1000)
        remedy = "give polygons as x,y x,y x,y; each in parts of the frame, from 0 to 1"
        zone = settings.text("FACE_ZONE", "0,0 1,0 1,1 0,1", f"{POLYGON}(; ?{POLYGON})*", remedy)
        self.zone = [np.array(re.findall(POINT, polygon), np.float32) for polygon in zone.split(";")]
        self.max_fps = settings.number("MAX_FPS", 10, 0.1, 1000)
        self.interval = settings.number("FACE_INTERVAL", 1, 0, 86400)
        self.longest = settings.number("FACE_INTERVAL_MAX", 60, 0, 86400)
        self.margin = settings.number("FACE_MARGIN", 0.2, 0, 2)
        self.max_side = int(settings.number("FACE_MAX_SIDE", 512, 16, 4096))
        self.format = settings.text("FACE_FORMAT", "jpg", "jpg|png", "give jpg or png")
        self.quality = int(settings.number("FACE_QUALITY", 90, 1, 100))
        self.spool = Path(settings.text("SPOOL", "spool", r".+", "give a directory"), f"{self.name}.db")
        self.spool_bytes = int(settings.number("SPOOL_MAX_BYTES", 2**30, 2**20, 2**50))
        self.receipts = settings.text("RECEIPTS", "on", "on|off", "give on or off") == "on"
        self.resend_after = settings.number("RESEND_AFTER", 60, 1, 3600)
        self.show = settings.text("SHOW", "0", "[01]", "1 opens a window, 0 does not") == "1"
        if self.show and sys.platform == "linux" and not any(map(settings.env.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            settings.refuse("SHOW", "1", "there is no display; set DISPLAY, or SHOW=0")


class Watch:
    def __init__(self, options: Options, spool: Spool) -> None:
        self.options, self.spool = options, spool
        self.detect = open_detector(options.model, options.width, options.min_score)
        self.detect_near = open_detector(options.model, NEAR, options.min_score)
        self.motion = Motion(options.max_fps)
        self.tracker = Tracker(options.interval, options.longest)
        self.swept = -math.inf  # when the whole frame was looked at last
        self.faces: list[Face] = []
        self.counts = {"frames": 0, "faces": 0}

    def look(self, frame: Frame) -> None:
        """Spool the faces of a frame that are worth sending."""
        self.counts["frames"] += 1
        image, at = frame
        options = self.options
        # Who asks for every detection of every frame gets exactly that
        if options.interval == 0 or self.motion.moved(image, at):
            self.faces = [face for face in self.find(frame) if self.wanted(face, frame)]
            boxes = [face.box for face in self.faces]
            tracks = self.tracker.follow(boxes, [look(image, box) for box in boxes], at)
            for face, track in zip(self.faces, tracks, strict=True):
                picture = crop(image, face.box, options.margin, options.max_side)
                sharp = sharpness(picture)
                if self.tracker.worth(track, sharp * min(face.box[2:]), at):
                    payload = encode(picture, options.format, options.quality, self.spool.max_face)
                    self.keep(payload, frame, face, sharp, track)
        if options.show:
            self.show(frame)

    def find(self, frame: Frame) -> list[Face]:
        """All faces of a frame, or between sweeps those of the last look, if each still is where it was."""
        if self.options.interval and 0 <= frame.at - self.swept < SWEEP[bool(self.faces)]:
            faces = find_near(self.detect_near, frame.image, [face.box for face in self.faces])
            if len(faces) == len(self.faces):
                return faces
        self.swept = frame.at
        return self.detect(frame.image)

    def wanted(self, face: Face, frame: Frame) -> bool:
        x, y, w, h = face.box
        centre = (x + w / 2) / frame.image.shape[1], (y + h / 2) / frame.image.shape[0]
        inside = [cv2.pointPolygonTest(polygon, centre, False) >= 0 for polygon in self.options.zone]
        return min(w, h) >= self.options.min_size and any(inside)

    def keep(self, payload: bytes, frame: Frame, face: Face, sharp: float, track: Track) -> None:
        """Put a picture into the spool, with the user properties of its message (`seq` is the spool's)."""
        captured_at = datetime.fromtimestamp(frame.at, timezone.utc).isoformat(timespec="milliseconds")[:-6]
        properties = {
            "id": track.id + secrets.token_hex(4),
            "camera": self.options.name,
            "captured_at": f"{captured_at}Z",
            "box": ",".join(map(str, face.box)),
            "frame_size": f"{frame.image.shape[1]}x{frame.image.shape[0]}",
            "score": f"{face.score:.3f}",
            "sharpness": f"{sharp:.1f}",
            "track": str(track.number),
            "schema": "1",
        }
        content_type = "image/png" if self.options.format == "png" else "image/jpeg"
        self.spool.add(properties["id"], content_type, properties, payload)
        self.counts["faces"] += 1
        log("face", id=properties["id"], box=properties["box"], track=properties["track"], bytes=len(payload))

    def show(self, frame: Frame) -> None:
        """Draw the zone and a box around each face into a frame, and show it in a window; for setting up a camera."""
        zone = [(polygon * frame.image.shape[1::-1]).astype(np.int32) for polygon in self.options.zone]
        cv2.polylines(frame.image, zone, True, (255, 255, 0), 2)
        for face in self.faces:
            cv2.rectangle(frame.image, face.box, (0, 255, 0), 2)
        cv2.imshow(self.options.name, frame.image)
        cv2.waitKey(1)
