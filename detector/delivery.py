"""Sends what is in the spool to the edge's broker, and lets go of it when its receipt comes home."""

import threading
import time
from collections import Counter, deque
from datetime import datetime, timezone
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from service import log

from .spool import Spool, SpooledFace

BRIDGE = "status/bridge"  # notification_topic of mosquitto/edge/mosquitto.conf
WINDOW = 20  # faces under way to the edge's broker at once: paho's own limit of QoS 1 messages in flight


def message_properties(face: SpooledFace) -> Properties:
    """Give the MQTT 5 properties of a face message."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = face.content_type
    properties.UserProperty = [*face.properties.items(), ("seq", str(face.seq))]
    return properties


class Delivery:
    """The way of the faces of one camera, from the spool to the receipt.

    A face that was sent and has no receipt is sent again in two cases only, and only while the bridge is up,
    so that an outage does not fill the queues with copies. Either a face sent `resend_after` s later has its
    receipt: the queues keep their order, so this one was lost. Or no receipt has come for that long: then the
    oldest face alone asks whether the way is open; once it was answered, and silence follows, the others were
    lost.
    """

    def __init__(self, spool: Spool, camera: str, receipts: bool, resend_after: float) -> None:
        self.spool = spool
        self.camera = camera
        self.receipts = receipts
        self.resend_after = resend_after
        self.counts = Counter(sent=0, resent=0, receipts=0)
        self.wake = threading.Event()
        self.under_way: dict[int, SpooledFace] = {}  # by MQTT packet identifier
        self.pubacks: deque[tuple[int, bool]] = deque()  # packet identifier, and whether it was refused
        self.bridge_up = False
        self.answered = False  # a receipt has come since the last time that faces were sent again
        self.quiet_since = time.monotonic()
        self.overtaken = 0.0  # monotonic s; what was sent before, and is not home, was overtaken

    def connected(self, client: mqtt.Client, _connack: Properties) -> None:
        """Subscribe to the receipts of this camera, and no other's; send what waits."""
        receipts = (f"receipts/{self.camera}", SubscribeOptions(qos=1))
        client.subscribe([receipts, (BRIDGE, SubscribeOptions(qos=0))])
        self.bridge_up = False  # until the broker says so
        self.wake.set()

    def on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Take a receipt, one id or several, or the news that the bridge is up or down."""
        if message.topic == BRIDGE:
            self.bridge_up = message.payload == b"1"
            self.quiet_since = time.monotonic()
            log("bridge", state="up" if self.bridge_up else "down", spooled=self.spool.count)
        else:
            self.answered = True
            self.quiet_since = time.monotonic()
            for id_ in message.payload.decode(errors="replace").split():
                self.counts["receipts"] += 1
                self.overtaken = max(self.overtaken, self.spool.let_go(id_) or 0.0)
        client.ack(message.mid, message.qos)

    def on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        """Note a PUBACK; `settle` looks at it, in its own thread."""
        self.pubacks.append((mid, reason.is_failure))
        self.wake.set()

    def run(self, client: mqtt.Client, stop: threading.Event) -> None:
        """Keep sending until `stop`."""
        while not stop.is_set():
            self.wake.wait(1)
            self.wake.clear()
            self.settle()
            if client.is_connected():
                self.send_again(time.monotonic())
                self.send(client)

    def settle(self) -> None:
        """Note which faces the edge's broker has taken; without receipts that is where our care ends."""
        while self.pubacks:
            mid, refused = self.pubacks.popleft()
            face = self.under_way.pop(mid, None)
            if face is None:
                continue  # a status message
            if refused:
                log("broker refuses a face, it stays in the spool", id=face.id)
            elif self.receipts:
                self.spool.sent(face.seq, time.monotonic())
            else:
                self.spool.let_go(face.id)

    def send(self, client: mqtt.Client) -> None:
        """Fill the window with the oldest faces to be sent."""
        under_way = [face.seq for face in self.under_way.values()]
        for face in self.spool.unsent(under_way, WINDOW - len(under_way)):
            info = client.publish(
                f"faces/{self.camera}", face.payload, qos=1, properties=message_properties(face)
            )
            # Where the connection has just been lost, paho sends it after the next connect
            self.under_way[info.mid] = face
            self.counts["sent"] += 1

    def send_again(self, now: float) -> None:
        """Let faces be sent again that were lost on the way, by the rules above."""
        if not (self.receipts and self.bridge_up):
            return
        again = self.spool.send_again(self.overtaken - self.resend_after, -1)
        if now - self.quiet_since > self.resend_after:
            silent = self.spool.send_again(now - self.resend_after, -1 if self.answered else 1)
            if silent:
                self.quiet_since, self.answered = now, False
            again += silent
        if again:
            self.counts["resent"] += again
            log("sending again", faces=again, spooled=self.spool.count)

    def report(self) -> dict[str, float]:
        """Give the counters for the status message."""
        oldest = self.spool.oldest()
        age = (
            datetime.now(timezone.utc) - datetime.fromisoformat(oldest.replace("Z", "+00:00"))
            if oldest
            else None
        )
        return {
            **self.counts,
            "dropped": self.spool.dropped,
            "spooled": self.spool.count,
            "spooled_bytes": int(self.spool.bytes),
            "oldest_s": round(max(age.total_seconds(), 0.0)) if age else 0,
        }
