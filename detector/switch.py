"""The switch of a camera: the retained message `off` or `on` on control/<camera> of the edge's broker."""

import threading

from service import log

from .spool import Spool


class Switch:
    """What was ordered last, also after a restart: where nothing is retained, it stays as it was.

    So a broker that has lost its messages switches nobody's camera on.
    """

    def __init__(self, camera: str, spool: Spool) -> None:
        self.topic, self.spool = f"control/{camera}", spool
        self.told = threading.Event()  # that what is retained would have come by now
        self.mark = spool.path.with_suffix(".off")  # this file is there while the camera is off
        self.off = self.mark.exists()

    def turn(self, order: bytes) -> None:
        """Heed an order; an empty one is what clears a retained message, and means on. Raises SpoolError."""
        if order not in (b"off", b"on", b""):
            log("order not understood, give off or on", topic=self.topic, order=order)
        elif (order == b"off") != self.off:
            with self.spool.disk():
                if self.off:
                    self.mark.unlink(missing_ok=True)
                else:
                    self.mark.touch()
            self.off = not self.off
            log("camera switched", to="off" if self.off else "on")
