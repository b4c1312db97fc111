"""Find the faces that a camera sees, and send each to the edge's broker: `python -m detector`."""

import os
import threading
import time
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

import cv2

from service import DAY, Client, Pulse, log, packet, read_settings, start

from .camera import Camera, open_camera
from .delivery import Delivery
from .spool import Spool
from .switch import Switch
from .watch import Options, Watch

GRACE = 5.0  # s that the broker has, at the start, to tell that the camera is switched off


def patience(spool: Spool, pulse: Pulse, stop: threading.Event) -> Iterator[bool]:
    """Give the cloud 50 ms a turn, and say so after 5 s, 10, 20 ...; each turn tells whether to stop."""
    for turn in count(1):
        pulse.beat("camera")
        if turn % 100 == 0 and (turn // 100).bit_count() == 1:
            log("waiting for the cloud, or for RECEIPTS=off", spooled=spool.count)
        yield stop.wait(0.05)


def rest(camera: Camera, watch: Watch, switch: Switch, client: Client, stop: threading.Event) -> None:
    """Let go of the camera, whose lamp goes out, and of its last picture, until it is switched on, or `stop`."""
    camera.close()
    if watch.options.show:
        cv2.destroyAllWindows()
    client.say()
    while switch.off and not stop.wait(0.2):
        client.pulse.beat("camera")
    if not stop.is_set():
        client.say()


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
    camera = open_camera(options.camera, options.size)
    watch = Watch(options, Spool(spool_path, spool_bytes))
    delivery = Delivery(watch.spool, options.name, receipts, resend_after, time.monotonic)
    pulse = Pulse("network", "delivery", "camera")
    session = packet("CONNECT", SessionExpiryInterval=DAY)

    def report() -> dict[str, object]:
        off = {"state": "off"} if delivery.switch.off else {}
        return {**watch.counts, **delivery.report(), **camera.state, **off}

    status = f"status/detector/{options.name}"
    client = Client(broker, status, delivery.connected, session, pulse=pulse, report=report)
    run(camera, watch, delivery, client, stop)


def run(camera: Camera, watch: Watch, delivery: Delivery, client: Client, stop: threading.Event) -> None:
    """Watch and deliver side by side, each in its own thread, until the camera ends and all is home, or `stop`."""
    client.on_message, client.on_publish = delivery.on_message, delivery.on_publish
    client.loop_start()
    spool, pulse = watch.spool, client.pulse

    def report() -> None:
        while not stop.wait(client.broker.every):
            log("watching", frames=watch.counts["frames"], faces=watch.counts["faces"], spooled=spool.count)
            client.say()

    threads = [threading.Thread(target=report), threading.Thread(target=delivery.run, args=[client, stop, pulse.beat])]
    for thread in threads:
        thread.start()
    wait = patience(spool, pulse, stop).__next__
    spool.wait = None if camera.live else wait
    delivery.switch.told.wait(GRACE)
    for frame in chain([None], camera):  # a turn before the camera is opened
        pulse.beat("camera")
        if delivery.switch.off:
            rest(camera, watch, delivery.switch, client, stop)
        elif frame:
            watch.look(frame)
            delivery.wake.set()
        if stop.is_set():
            break
    # A file that was read to its end is done when all is home, a live camera never
    while spool.count and not wait():
        pass
    done = not (camera.live or spool.count or stop.is_set())
    camera.close()
    stop.set()
    for thread in threads:
        thread.join()
    client.leave("done" if done else "down")
    log("done" if done else "stopped", **client.report())


if __name__ == "__main__":
    main()
