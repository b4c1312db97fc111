"""Find the faces that a camera sees, and send each to the edge's broker: `python -m detector`."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from service import DAY, Client, Pulse, log, read_settings, start

from .camera import Camera, CameraError, open_camera
from .delivery import Delivery
from .spool import Spool, SpoolError
from .watch import Options, Watch


def watch_camera(camera: Camera, watch: Watch, delivery: Delivery, pulse: Pulse, stop: threading.Event) -> None:
    """Look at every frame until the camera ends, or `stop`; raises CameraError and SpoolError."""
    for frame in camera:
        pulse.beat("camera")
        if stop.is_set():
            return
        if frame is not None:
            watch.look(frame)
            delivery.wake.set()


def patience(spool: Spool, pulse: Pulse, stop: threading.Event) -> Callable[[], bool]:
    """Give what waits a moment for the cloud, saying so at growing intervals; it tells whether to stop."""
    pause = 5.0
    say_at = time.monotonic() + pause

    def wait() -> bool:
        nonlocal pause, say_at
        pulse.beat("camera")
        if time.monotonic() > say_at:
            log("waiting for the cloud, or for RECEIPTS=off", spooled=spool.count)
            pause *= 2
            say_at = time.monotonic() + pause
        return stop.wait(0.05)

    return wait


def main() -> None:
    """Watch the camera until it ends (a file or folder), or until SIGTERM or Ctrl-C."""
    # What goes wrong with a camera is said once, by us
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    settings = read_settings(__doc__)
    options = Options(settings)
    broker = settings.broker(f"detector-{options.name}")
    receipts = settings.text("RECEIPTS", "on", "on|off", "give on or off") == "on"
    resend_after = settings.number("RESEND_AFTER", 60, 1, 3600)
    spool_path = Path(settings.text("SPOOL", "spool", r".+", "give a directory"), f"{options.name}.db")
    spool_bytes = int(settings.number("SPOOL_MAX_BYTES", 2**30, 2**20, 2**50))
    settings.refuse_bad()
    stop = start()
    try:
        camera = open_camera(options.camera, log, size=options.size)
        spool = Spool(spool_path, spool_bytes)
        watch = Watch(options, spool)
        delivery = Delivery(spool, options.name, receipts, resend_after, time.monotonic)
        pulse = Pulse("network", "delivery", "camera")
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = DAY

        def connected(client: mqtt.Client, connack: Properties) -> None:
            delivery.connected(client, connack)
            watch.max_bytes = delivery.max_bytes

        def report() -> dict[str, object]:
            return {**watch.counts, **delivery.report(), **camera.state}

        status = f"status/detector/{options.name}"
        client = Client(broker, status, connected, session, pulse=pulse, report=report)
        run(camera, watch, delivery, client, stop)
    except (CameraError, SpoolError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "status", 2))  # a bad model is a bad setting


def run(camera: Camera, watch: Watch, delivery: Delivery, client: Client, stop: threading.Event) -> None:
    """Watch and deliver side by side, each in its own thread; raises CameraError and SpoolError."""
    client.on_message = delivery.on_message
    client.on_publish = delivery.on_publish
    client.loop_start()
    pulse = client.pulse

    def report() -> None:
        while not stop.wait(client.broker.every):
            log("watching", frames=watch.counts["frames"], faces=watch.counts["faces"], spooled=delivery.spool.count)
            client.say()

    threads = [threading.Thread(target=report), threading.Thread(target=delivery.run, args=[client, stop, pulse.beat])]
    for thread in threads:
        thread.start()
    if not camera.live:
        delivery.spool.wait = patience(delivery.spool, pulse, stop)
    try:
        watch_camera(camera, watch, delivery, pulse, stop)
        # A file that was read to its end is done when all is home, a live camera never
        wait = patience(delivery.spool, pulse, stop)
        while delivery.spool.count and not wait():
            pass
        done = not (camera.live or delivery.spool.count or stop.is_set())
    finally:
        camera.close()
        stop.set()
        for thread in threads:
            thread.join()
    client.leave("done" if done else "down")
    log("done" if done else "stopped", **client.report())


if __name__ == "__main__":
    main()
