"""Looks at the frames of one camera, and puts the faces that are worth sending into the spool."""

import os
import re
import secrets
import sys
from collections import Counter
from datetime import datetime, timezone
from typing import NamedTuple

import cv2
from cv2.typing import MatLike

from service import Settings, log

from .camera import Frame
from .faces import Face, crop, encode, open_detector, sharpness
from .motion import Motion
from .spool import Spool
from .tracks import Tracker

CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png"}


class Options(NamedTuple):
    """What is looked at, and what is made of it."""

    camera: str
    name: str
    model: str
    width: int
    max_fps: float
    interval: float
    margin: float
    max_side: int
    format: str
    quality: int
    show: bool
    size: tuple[int, int] = (1280, 720)


def read_options(settings: Settings) -> Options:
    """Take the settings of the camera, the faces and the crops."""
    show = settings.text("SHOW", "0", "[01]", "1 opens a window, 0 does not") == "1"
    if (
        show
        and sys.platform == "linux"
        and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    ):
        settings.bad.append("SHOW=1: there is no display; set DISPLAY, or SHOW=0")
    size = settings.text("CAMERA_SIZE", "1280x720", r"[1-9]\d{1,4}x[1-9]\d{1,4}", "give WIDTHxHEIGHT in px")
    width, height = [*re.findall(r"\d+", size), "0", "0"][:2]
    return Options(
        settings.text(
            "CAMERA", "0", r"(?s).+", "give a number, a device, a URL, a video file or a folder of images"
        ),
        settings.text("CAMERA_NAME", "cam0", r"[\w-]{1,64}", "up to 64 letters, digits, dashes"),
        settings.text("FACE_MODEL", "", r".*", "give the path of a YuNet ONNX file"),
        int(settings.number("FACE_WIDTH", 640, 32, 4096)),
        settings.number("MAX_FPS", 10, 0.1, 1000),
        settings.number("FACE_INTERVAL", 1, 0, 86400),
        settings.number("FACE_MARGIN", 0.2, 0, 2),
        int(settings.number("FACE_MAX_SIDE", 512, 16, 4096)),
        settings.text("FACE_FORMAT", "jpg", "jpg|png", "give jpg or png"),
        int(settings.number("FACE_QUALITY", 90, 1, 100)),
        show,
        size=(int(width), int(height)),
    )


class Watch:
    """One camera being watched: frames in, faces into the spool."""

    def __init__(self, options: Options, spool: Spool) -> None:
        self.options = options
        self.spool = spool
        self.max_bytes = 1_000_000  # of a picture; less where the broker takes less
        self.detect = open_detector(options.model, options.width)
        self.motion = Motion(options.max_fps)
        self.tracker = Tracker(options.interval)
        self.faces: list[Face] = []
        self.counts = Counter(frames=0, faces=0)

    def look(self, frame: Frame) -> None:
        """Spool the faces of a frame that are worth sending."""
        self.counts["frames"] += 1
        # Who asks for every detection of every frame gets exactly that
        if self.options.interval == 0 or self.motion.moved(frame.image, frame.at):
            self.faces = self.detect(frame.image)
            tracks = self.tracker.follow([face.box for face in self.faces], frame.at)
            for face, track in zip(self.faces, tracks, strict=True):
                picture = crop(frame.image, face.box, self.options.margin, self.options.max_side)
                sharp = sharpness(picture)
                if self.tracker.worth(track, sharp * min(face.box[2:]), frame.at):
                    self.keep(picture, self.describe(frame, face, sharp, track.number))
        if self.options.show:
            show(self.options.name, frame.image, self.faces)

    def describe(self, frame: Frame, face: Face, sharp: float, track: int) -> dict[str, str]:
        """Give the user properties of a face message, but for `seq`, which the spool counts."""
        height, width = frame.image.shape[:2]
        captured_at = datetime.fromtimestamp(frame.at, timezone.utc).isoformat(timespec="milliseconds")
        return {
            "id": secrets.token_hex(8),
            "camera": self.options.name,
            "captured_at": captured_at.replace("+00:00", "Z"),
            "box": ",".join(str(side) for side in face.box),
            "frame_size": f"{width}x{height}",
            "score": f"{face.score:.3f}",
            "sharpness": f"{sharp:.1f}",
            "track": str(track),
            "schema": "1",
        }

    def keep(self, picture: MatLike, properties: dict[str, str]) -> None:
        """Put a picture of a face into the spool."""
        payload = encode(picture, self.options.format, self.options.quality)
        self.spool.add(properties["id"], CONTENT_TYPES[self.options.format], properties, payload)
        self.counts["faces"] += 1
        log("face", id=properties["id"], box=properties["box"], track=properties["track"], bytes=len(payload))


def show(title: str, image: MatLike, faces: list[Face]) -> None:
    """Show a frame in a window, with a box around each face; for setting up a camera."""
    image = image.copy()
    for face in faces:
        cv2.rectangle(image, face.box, (0, 255, 0), 2)
    cv2.imshow(title, image)
    cv2.waitKey(1)
