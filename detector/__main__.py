"""Find the faces that a camera sees, and send each to the edge's broker: `python -m detector`."""

import os
import secrets
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import cv2
import paho.mqtt.client as mqtt
from cv2.typing import MatLike

from .camera import Camera, CameraError, Frame, open_camera
from .delivery import Delivery
from .faces import Face, crop, encode, open_detector
from .service import Settings, beat, connect, disconnect, log, say_status, start
from .spool import Spool, SpoolError
from .tracks import Motion, Sighting, Tracker

# sysexits.h: EX_NOINPUT, EX_IOERR; a bad model is a bad setting
EXIT_STATUS: dict[type[Exception], int] = {CameraError: 66, SpoolError: 74, ValueError: 2}
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


def read_options(settings: Settings) -> Options:
    """Take the settings of the camera, the faces and the crops."""
    show = settings.text("SHOW", "0", "[01]", "1 opens a window, 0 does not") == "1"
    if (
        show
        and sys.platform == "linux"
        and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    ):
        settings.bad.append("SHOW=1: there is no display; set DISPLAY, or SHOW=0")
    return Options(
        settings.text(
            "CAMERA", "0", r".+", "give a number, a device, a URL, a video file or a folder of images"
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
    )


def describe(options: Options, sighting: Sighting, frame: Frame) -> dict[str, str]:
    """Give the user properties of a face message, but for `seq`, which the spool counts."""
    height, width = frame.image.shape[:2]
    captured_at = datetime.fromtimestamp(frame.at, timezone.utc).isoformat(timespec="milliseconds")
    return {
        "id": secrets.token_hex(8),
        "camera": options.name,
        "captured_at": captured_at.replace("+00:00", "Z"),
        "box": ",".join(str(side) for side in sighting.face.box),
        "frame_size": f"{width}x{height}",
        "score": f"{sighting.face.score:.3f}",
        "sharpness": f"{sighting.sharpness:.1f}",
        "track": str(sighting.track),
        "schema": "1",
    }


class Watch:
    """One camera being watched: frames in, faces into the spool."""

    def __init__(self, options: Options, spool: Spool) -> None:
        self.options = options
        self.spool = spool
        self.detect = open_detector(options.model, options.width)
        self.motion = Motion(options.max_fps)
        self.tracker = Tracker(options.interval)
        self.faces: list[Face] = []
        self.counts = Counter(frames=0, faces=0)

    def look(self, frame: Frame) -> None:
        """Spool the faces of a frame that are worth sending."""
        self.counts["frames"] += 1
        if self.motion.moved(frame.image, frame.at):
            self.faces = self.detect(frame.image)
            for sighting in self.tracker.update(frame.image, self.faces, frame.at):
                self.keep(frame, sighting)
        if self.options.show:
            show(self.options.name, frame.image, self.faces)

    def keep(self, frame: Frame, sighting: Sighting) -> None:
        """Cut a face out, and put it into the spool."""
        options = self.options
        picture = crop(frame.image, sighting.face.box, options.margin, options.max_side)
        payload = encode(picture, options.format, options.quality)
        properties = describe(options, sighting, frame)
        self.spool.add(properties["id"], CONTENT_TYPES[options.format], properties, payload)
        self.counts["faces"] += 1
        log("face", id=properties["id"], box=properties["box"], track=properties["track"], bytes=len(payload))


def show(title: str, image: MatLike, faces: list[Face]) -> None:
    """Show a frame in a window, with a box around each face; for setting up a camera."""
    image = image.copy()
    for face in faces:
        cv2.rectangle(image, face.box, (0, 255, 0), 2)
    cv2.imshow(title, image)
    cv2.waitKey(1)


def watch_camera(camera: Camera, watch: Watch, delivery: Delivery, stop: threading.Event) -> None:
    """Look at every frame until the camera ends, or `stop`; raises CameraError and SpoolError."""
    for frame in camera:
        beat()
        if stop.is_set():
            return
        if frame is not None:
            watch.look(frame)
            delivery.wake.set()
        # A file can wait for the network, and a live camera cannot
        while not camera.live and watch.spool.nearly_full() and not stop.wait(0.1):
            beat()


def await_receipts(spool: Spool, stop: threading.Event) -> bool:
    """Wait until every face is home, saying how many are not at growing intervals; tells whether all are."""
    pause = 5.0
    say_at = time.monotonic() + pause
    while spool.count and not stop.wait(0.05):
        beat()
        if time.monotonic() > say_at:
            log("waiting for the cloud, or for RECEIPTS=off", spooled=spool.count)
            pause *= 2
            say_at = time.monotonic() + pause
    return not spool.count


def main() -> None:
    """Watch the camera until it ends (a file or folder), or until SIGTERM or Ctrl-C."""
    stop = start()
    # What goes wrong with a camera is said once, by us
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    settings = Settings(os.environ)
    options = read_options(settings)
    broker = settings.broker(f"detector-{options.name}")
    receipts = settings.text("RECEIPTS", "on", "on|off", "give on or off") == "on"
    resend_after = settings.number("RESEND_AFTER", 60, 1, 86400)
    spool_path = Path(settings.text("SPOOL", "spool", r".+", "give a directory"), f"{options.name}.db")
    spool_bytes = int(settings.number("SPOOL_MAX_BYTES", 2**30, 2**20, 2**50))
    status_every = settings.number("STATUS_INTERVAL", 10, 0.1, 3600)
    settings.refuse_bad()
    try:
        camera = open_camera(options.camera, log=log)
        spool = Spool(spool_path, spool_bytes)
        watch = Watch(options, spool)
        delivery = Delivery(spool, options.name, receipts, resend_after)
        client = connect(broker, f"status/detector/{options.name}", delivery.connected)
        run(camera, watch, delivery, client, status_every=status_every, stop=stop)
    except (CameraError, SpoolError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)))


def run(
    camera: Camera,
    watch: Watch,
    delivery: Delivery,
    client: mqtt.Client,
    *,
    status_every: float,
    stop: threading.Event,
) -> None:
    """Watch and deliver side by side, each in its own thread; raises CameraError and SpoolError."""
    status = f"status/detector/{watch.options.name}"
    client.on_message = delivery.on_message
    client.on_publish = delivery.on_publish
    client.loop_start()

    def counts() -> dict[str, float]:
        return {**watch.counts, **delivery.report()}

    def report() -> None:
        while not stop.wait(status_every):
            now = counts()
            log("watching", frames=now["frames"], faces=now["faces"], spooled=now["spooled"])
            say_status(client, status, "up", now)

    threads = [threading.Thread(target=report), threading.Thread(target=delivery.run, args=[client, stop])]
    for thread in threads:
        thread.start()
    try:
        watch_camera(camera, watch, delivery, stop)
        delivered = await_receipts(delivery.spool, stop)
    finally:
        camera.close()
        stop.set()
        for thread in threads:
            thread.join()
    disconnect(client, status, "done" if delivered else "down", counts())
    log("done" if delivered else "stopped", **counts())


if __name__ == "__main__":
    main()
