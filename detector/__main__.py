"""Find the faces that a camera sees, and send each to the edge's broker: `python -m detector`."""

import os
import threading
import time
from itertools import chain, count

import cv2

from service import DAY, Client, log, packet, read_settings, start

from .camera import Camera, open_camera
from .delivery import Delivery
from .spool import Spool
from .watch import Options, Watch


def main() -> None:
    """Watch the camera and deliver its faces, until it ends (a file or folder) or until SIGTERM or Ctrl-C."""
    # What goes wrong with a camera is said once, by us
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    settings = read_settings(__doc__)
    options = Options(settings)
    broker = settings.broker(f"detector-{options.name}")
    settings.refuse_bad()

    stop = start()
    camera = open_camera(options.camera, options.size)
    spool = Spool(options.spool, options.spool_bytes)
    watch = Watch(options, spool)
    delivery = Delivery(spool, options.name, options.receipts, options.resend_after, time.monotonic)

    def report() -> dict[str, object]:
        off = {"state": "off"} if spool.off else {}
        return {**watch.counts, **delivery.counts, **spool.report(), **camera.state, **off}

    def say() -> None:
        while not stop.wait(broker.every):
            log("watching", frames=watch.counts["frames"], faces=watch.counts["faces"], spooled=spool.count)
            client.say()
            spool.tidy()

    name, session = f"status/detector/{options.name}", packet("CONNECT", SessionExpiryInterval=DAY)
    client = Client(broker, name, delivery.connected, session, report, "delivery", "camera")
    client.on_message, client.on_publish = delivery.on_message, delivery.on_publish
    client.loop_start()
    threads = [threading.Thread(target=say), threading.Thread(target=delivery.run, args=[client, stop])]
    for thread in threads:
        thread.start()
    delivery.told.wait(5)  # s that the broker has to tell whether the camera is switched off
    see(camera, watch, client, stop)
    state = "down" if stop.is_set() else "done"
    stop.set()
    for thread in threads:
        thread.join()
    client.leave(state)
    log(state, **report())


def see(camera: Camera, watch: Watch, client: Client, stop: threading.Event) -> None:
    """Look at what the camera sees, until it ends and all is home, or `stop`."""
    spool, beat, turns = watch.spool, client.pulse.beat, count(1)

    def wait() -> bool:
        """Give the cloud 50 ms, and say so after 5 s, 10, 20 ...; true: it is time to stop."""
        beat("camera")
        if (turn := next(turns)) % 100 == 0 and (turn // 100).bit_count() == 1:
            log("waiting for the cloud, or for RECEIPTS=off", spooled=spool.count)
        return stop.wait(0.05)

    spool.wait = None if camera.live else wait
    for frame in chain([None], camera):  # a turn before the camera is opened
        beat("camera")
        if spool.off:
            rest(camera, watch, client, stop)
        elif frame:
            watch.look(frame)
        if stop.is_set():
            break
    camera.close()
    # A file that was read to its end is done when all is home, a live camera never
    while spool.count and not wait():
        pass


def rest(camera: Camera, watch: Watch, client: Client, stop: threading.Event) -> None:
    """Let go of the camera, whose lamp goes out, and of its last picture, until it is switched on, or `stop`."""
    camera.close()
    if watch.options.show:
        cv2.destroyAllWindows()
    client.say()
    while watch.spool.off and not stop.wait(0.2):
        client.pulse.beat("camera")
    client.say()


if __name__ == "__main__":
    main()
