"""Sends each face once, when it is cut; what has no receipt goes again, a few at a time, until it is home."""

import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties

from service import MAX_PACKET, Client, log, packet

from .again import NEVER, Again
from .spool import Spool

BRIDGE = "status/bridge"  # notification_topic of mosquitto/edge/mosquitto.conf
IN_FLIGHT = 20  # messages without a PUBACK: paho sends no more, and would queue the rest in its memory
FRESH = 10.0  # s; a face that the broker could not be given for longer is no news on the edge any more
ROOM = 4096  # bytes of a packet for topic and properties


class Delivery:
    """The way of the faces of one camera, from the spool to the receipt. Without receipts a PUBACK is one.

    A new face goes out at once on `faces/`, for whoever listens on the edge; what is sent again goes out on
    `again/`, which only the bridge reads. A number of the sending goes along, and comes back in the receipt.
    """

    def __init__(self, spool: Spool, camera: str, receipts: bool, after: float, clock: Callable[[], float]) -> None:
        self.spool, self.camera, self.receipts, self.clock = spool, camera, receipts, clock
        self.again = Again(spool, after)
        self.counts = Counter(sent=0, resent=0, receipts=0, refused=0)
        self.told = threading.Event()  # that an order which the broker keeps would have come by now
        self.news: deque[Callable[[], None]] = deque()  # from paho's thread, which must not wait for the disk
        self.under_way: dict[int, tuple[str, float]] = {}  # id, and when sent, by MQTT packet identifier
        self.in_flight = IN_FLIGHT
        # Sendings are numbered by the ms; from a number of our own, so that a receipt of before a restart tells nothing
        self.base = secrets.randbelow(10**18)
        self.bridge_up = not receipts
        self.stepped = self.caught_up = clock()

    def connected(self, client: mqtt.Client, connack: Properties) -> None:
        """Subscribe to what concerns this camera, and no other; heed what the broker can take."""
        # With QoS 0 what is retained has no queue to wait in
        for topic, qos in ((f"control/{self.camera}", 0), (BRIDGE, 0), (f"receipts/{self.camera}", 1)):
            client.subscribe(topic, qos)
        self.spool.max_face = min(getattr(connack, "MaximumPacketSize", MAX_PACKET), MAX_PACKET) - ROOM
        self.in_flight = min(getattr(connack, "ReceiveMaximum", IN_FLIGHT), IN_FLIGHT)
        self.bridge_up = not self.receipts  # until the broker says so

    def on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Take a receipt of one face or several, the news that the bridge is up or down, or the camera's switch."""
        payload = bytes(message.payload)
        if message.topic == BRIDGE:
            self.bridge_up = payload == b"1" or not self.receipts
            log("bridge", state="up" if payload == b"1" else "down", spooled=self.spool.count)
        elif message.topic.startswith("receipts/"):
            ids, number = payload.decode(errors="replace").split(), getattr(message.properties, "CorrelationData", b"")
            sent = (int(number) - self.base) / 1000 if number.isdigit() and len(number) < 20 else NEVER
            self.counts["receipts"] += len(ids)
            # An older sink's has no number; one that is still to come is of another process
            self.hear(self.again.home, ids, sent if sent <= self.clock() else NEVER)
        elif payload in (b"off", b"on", b""):  # empty is what clears a retained message
            self.hear(self.spool.switch, payload == b"off")
        else:
            log("order not understood, give off or on", topic=message.topic, order=payload)
        client.ack(message.mid, message.qos)

    def on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self.hear(self.puback, mid, reason)

    def hear(self, news: Callable[..., None], *values: object) -> None:
        self.news.append(partial(news, *values))
        self.spool.wake.set()

    def run(self, client: Client, stop: threading.Event) -> None:
        while not stop.is_set():
            self.spool.wake.wait(1)
            self.spool.wake.clear()
            self.step(client)
            client.pulse.beat("delivery")

    def step(self, client: mqtt.Client) -> None:
        now = self.clock()
        if client.is_connected() and self.bridge_up and self.spool.count:
            self.again.silence += now - self.stepped
        self.stepped = now
        while self.news:
            self.news.popleft()()
        if client.is_connected():
            self.send(client, now)
        if self.again.first == self.spool.newest:
            self.caught_up = now
        elif now - self.caught_up > FRESH:
            self.again.sent_first(self.spool.newest, NEVER)

    def puback(self, mid: int, reason: Any) -> None:
        # The broker sends what it has retained before it acknowledges what came after the SUBSCRIBE
        self.told.set()
        id_, sent = self.under_way.pop(mid, ("", NEVER))
        if id_ and reason.is_failure:  # it waits like one that was lost
            self.refused(id_, reason)
        elif id_ and not self.receipts:
            self.again.home([id_], sent)

    def refused(self, id_: str, reason: object) -> None:
        """Count a face that the broker does not take; the 1st, 2nd, 4th, 8th ... is said."""
        self.counts["refused"] += 1
        if self.counts["refused"].bit_count() == 1:
            log("broker does not take a face, it waits", id=id_, reason=reason, times=self.counts["refused"])

    def send(self, client: mqtt.Client, now: float) -> None:
        while self.again.first < self.spool.newest and len(self.under_way) < self.in_flight:
            self.again.sent_first(self.again.first + 1, now)
            self.publish(client, "faces", self.again.first, now)
        due, resent = self.again.due(now), self.counts["resent"]
        while self.bridge_up and len(self.under_way) < self.in_flight and (seq := next(due, 0)):
            self.publish(client, "again", seq, now)
        if self.counts["resent"] > resent:
            log("sending again", faces=self.counts["resent"] - resent, spooled=self.spool.count)

    def publish(self, client: mqtt.Client, topic: str, seq: int, now: float) -> None:
        """Hand a face to paho; where the connection has just been lost, that is sent after the next one."""
        face = self.spool.get(seq)
        if not face:
            self.again.sent_again.pop(seq, None)
        elif len(face.payload) > self.spool.max_face:
            self.refused(face.id, f"{len(face.payload)} bytes, and it takes {self.spool.max_face}")
        else:
            properties = packet(
                "PUBLISH",
                ContentType=face.content_type,
                CorrelationData=b"%d" % (self.base + int(now * 1000)),  # the sink copies it
                UserProperty=[*face.properties.items(), ("seq", str(seq))],
            )
            info = client.publish(f"{topic}/{self.camera}", face.payload, qos=1, properties=properties)
            self.under_way[info.mid] = face.id, now
            self.counts["sent" if topic == "faces" else "resent"] += 1
