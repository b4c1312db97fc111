"""Sends each face once, when it is cut; what has no receipt goes again, a few at a time, until it is home."""

import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from service import MAX_PACKET, log, packet

from .again import NEVER, Again
from .spool import Spool
from .switch import Switch

BRIDGE = "status/bridge"  # notification_topic of mosquitto/edge/mosquitto.conf
IN_FLIGHT = 20  # messages without a PUBACK: paho sends no more, and would queue the rest in its memory
FRESH = 10.0  # s; a face that the broker could not be given for longer is no news on the edge any more
ROOM = 4096  # bytes of a packet for topic and properties
TIDY = 60.0  # s


class Delivery:
    """The way of the faces of one camera, from the spool to the receipt. Without receipts a PUBACK is one.

    A new face goes out at once on `faces/`, for whoever listens on the edge; what is sent again goes out on
    `again/`, which only the bridge reads. A number of the sending goes along, and comes back in the receipt.
    """

    def __init__(
        self, spool: Spool, camera: str, receipts: bool, resend_after: float, clock: Callable[[], float]
    ) -> None:
        self.spool, self.camera, self.receipts, self.clock = spool, camera, receipts, clock
        self.switch = Switch(camera, spool)
        self.again = Again(spool, resend_after, clock())
        self.counts = Counter(sent=0, resent=0, receipts=0, refused=0)
        self.wake = threading.Event()
        self.news: deque[Callable[[], None]] = deque()  # from paho's thread, which must not wait for ours
        self.under_way: dict[int, tuple[str, float]] = {}  # id, and when sent, by MQTT packet identifier
        self.in_flight = IN_FLIGHT
        # Sendings are numbered by the ms; from a number of our own, so that a receipt of before a restart tells nothing
        self.base = secrets.randbelow(10**18)
        self.bridge_up = not receipts
        self.stepped = self.caught_up = self.tidied = clock()

    def connected(self, client: mqtt.Client, connack: Properties) -> None:
        """Subscribe to the receipts of this camera, and no other's; heed what the broker can take."""
        # With QoS 0 what is retained has no queue to wait in
        topics = {self.switch.topic: 0, BRIDGE: 0, f"receipts/{self.camera}": 1}
        client.subscribe([(topic, SubscribeOptions(qos)) for topic, qos in topics.items()])
        self.spool.max_face = min(getattr(connack, "MaximumPacketSize", MAX_PACKET), MAX_PACKET) - ROOM
        self.in_flight = min(getattr(connack, "ReceiveMaximum", IN_FLIGHT), IN_FLIGHT)
        self.hear(self.bridge, False)  # until the broker says so

    def on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Take a receipt, one id or several, the camera's switch, or the news that the bridge is up or down."""
        if message.topic == self.switch.topic:
            self.switch.turn(bytes(message.payload))
        elif message.topic == BRIDGE:
            self.hear(self.bridge, message.payload == b"1")
        else:
            sending = getattr(message.properties, "CorrelationData", b"")
            self.hear(self.home, message.payload.decode(errors="replace").split(), self.time_of(sending))
        client.ack(message.mid, message.qos)

    def on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self.hear(self.puback, mid, str(reason) if reason.is_failure else "")
        # The broker sends what it has retained before it acknowledges what came after the SUBSCRIBE
        self.switch.told.set()

    def hear(self, news: Callable[..., None], *values: object) -> None:
        self.news.append(partial(news, *values))
        self.wake.set()

    def run(self, client: mqtt.Client, stop: threading.Event, beat: Callable[[str], None]) -> None:
        while not stop.is_set():
            self.wake.wait(1)
            self.wake.clear()
            self.step(client, self.clock())
            beat("delivery")

    def step(self, client: mqtt.Client, now: float) -> None:
        while self.news:
            self.news.popleft()()
        if client.is_connected():
            self.send(client, now)
        if not (client.is_connected() and self.bridge_up):
            self.again.heard += now - self.stepped  # silence means something only while the way is open
        if self.again.first == self.spool.newest:
            self.caught_up = now
        elif now - self.caught_up > FRESH:
            self.again.sent_first(self.spool.newest, NEVER)
        if now - self.tidied > TIDY:
            self.spool.tidy()
            self.tidied = now
        self.stepped = now

    def send(self, client: mqtt.Client, now: float) -> None:
        while self.again.first < self.spool.newest and len(self.under_way) < self.in_flight:
            self.again.sent_first(self.again.first + 1, now)
            self.counts["sent"] += self.publish(client, "faces", self.again.first, now)
        due, resent = self.again.due(now), self.counts["resent"]
        while self.bridge_up and len(self.under_way) < self.in_flight and (seq := next(due, 0)):
            self.counts["resent"] += self.publish(client, "again", seq, now)
        if self.counts["resent"] > resent:
            log("sending again", faces=self.counts["resent"] - resent, spooled=self.spool.count)

    def publish(self, client: mqtt.Client, topic: str, seq: int, now: float) -> bool:
        """Hand a face to paho; where the connection has just been lost, that is sent after the next one."""
        face = self.spool.get(seq)
        if face and len(face.payload) > self.spool.max_face:
            self.refused(face.id, f"{len(face.payload)} bytes, and it takes {self.spool.max_face}")
        elif face:
            properties = packet(
                "PUBLISH",
                ContentType=face.content_type,
                CorrelationData=b"%d" % (self.base + int(now * 1000)),  # the sink copies it
                UserProperty=[*face.properties.items(), ("seq", str(seq))],
            )
            info = client.publish(f"{topic}/{self.camera}", face.payload, qos=1, properties=properties)
            self.under_way[info.mid] = face.id, now
            return True
        return False

    def puback(self, mid: int, refusal: str) -> None:
        id_, sent = self.under_way.pop(mid, ("", NEVER))
        if id_ and refusal:  # it waits like one that was lost
            self.refused(id_, refusal)
        elif id_ and not self.receipts:
            self.home([id_], sent)

    def refused(self, id_: str, reason: str) -> None:
        """Count a face that the broker does not take; the 1st, 2nd, 4th, 8th ... is said."""
        self.counts["refused"] += 1
        if self.counts["refused"].bit_count() == 1:
            log("broker does not take a face, it waits", id=id_, reason=reason, times=self.counts["refused"])

    def home(self, ids: list[str], sent: float) -> None:
        self.counts["receipts"] += len(ids)
        self.again.home(ids, sent, self.clock())

    def bridge(self, up: bool) -> None:
        if up != self.bridge_up and self.receipts:
            log("bridge", state="up" if up else "down", spooled=self.spool.count)
            self.bridge_up = up

    def time_of(self, sending: bytes) -> float:
        """Give when a sending of ours left; NEVER for any other, and where an older sink names none."""
        ms = int(sending) - self.base if sending.isdigit() and len(sending) < 20 else -1
        return ms / 1000 if 0 <= ms <= self.clock() * 1000 else NEVER

    def report(self) -> dict[str, float]:
        oldest, now = self.spool.oldest(), datetime.now(timezone.utc)
        cut = datetime.fromisoformat(oldest.properties["captured_at"].replace("Z", "+00:00")) if oldest else now
        spool = {"dropped": self.spool.dropped, "spooled": self.spool.count, "spooled_bytes": int(self.spool.bytes)}
        return {**self.counts, **spool, "oldest_s": max(round((now - cut).total_seconds()), 0)}
