"""The way of each message: taken from the broker, stored, its receipt sent, and then acknowledged."""

import re
import threading
import time
from concurrent import futures
from contextlib import suppress
from queue import SimpleQueue

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from service import Client, log, packet

from .objects import CONTRACT, rejected_object, stored_object, valid_id
from .store import Failed, Gone, Store

MAX_QOS0 = 16_000_000  # bytes under way beyond which QoS 0, which no window bounds, is dropped
LEAVE = 90.0  # s at SIGTERM for what the broker has dealt to a sink that others replace


class Taken:
    """A message on its way into the bucket; of its properties only those that are used."""

    def __init__(self, message: mqtt.MQTTMessage, over: threading.Event) -> None:
        self.mid, self.qos = message.mid, message.qos
        self.topic, self.payload = message.topic, bytes(message.payload)
        pairs = getattr(message.properties, "UserProperty", [])
        self.properties = {name: value for name, value in pairs if name in CONTRACT}
        # Which sending its receipt is for
        self.sending = packet("PUBLISH", CorrelationData=getattr(message.properties, "CorrelationData", None) or None)
        self.over = over  # set when its connection is lost or the sink stops: then it is not begun or tried again
        self.upload: futures.Future[mqtt.MQTTMessageInfo | None]  # gives the receipt that was sent, if one was due


def store_message(store: Store, taken: Taken) -> bool:
    """Store a face, or what cannot be one under `rejected/`; False when no receipt is due. Raises Gone."""
    began = time.monotonic()
    source = taken.topic, taken.properties, taken.payload
    if not taken.payload and "id" not in taken.properties:
        return False  # it clears a retained message
    try:
        try:
            target, outcome = stored_object(*source), "stored"
            store.put(target, taken.payload, taken.over)
        except ValueError as reason:  # no image, or Refused
            target, outcome = rejected_object(*source, str(reason)), "rejected"
            log("rejected", topic=taken.topic, reason=reason)
            store.put(target, taken.payload, taken.over)
    except Failed as reason:
        store.count(refused=1)
        log("REFUSED by the bucket, the camera's spool keeps it", topic=taken.topic, reason=reason)
        return False
    store.count(**{outcome: 1})
    log("stored", key=target["Key"], bytes=len(taken.payload), ms=round(1000 * (time.monotonic() - began)))
    return True


def send_receipt(client: mqtt.Client, taken: Taken) -> mqtt.MQTTMessageInfo | None:
    """Tell the detector that this face lies in the bucket; None when nobody waits for it."""
    topic = f"receipts/{taken.topic.partition('/')[2]}"
    with suppress(ValueError):  # no id, or the topic is at MQTT's limit already: paho sends none that is longer
        return client.publish(topic, valid_id(taken.properties), qos=1, properties=taken.sending)
    return None


class Sink:
    def __init__(self, store: Store, topic: str, uploads: int) -> None:
        self.store, self.topic, self.uploads = store, topic, futures.ThreadPoolExecutor(uploads)
        self.came = 0  # messages
        self.over = threading.Event()  # of the present connection
        self.taken: SimpleQueue[Taken | None] = SimpleQueue()  # in the order received

    def connected(self, client: mqtt.Client, *_connack: object) -> None:
        """Let go of what came over the last connection, for the broker sends it again; subscribe."""
        self.over.set()
        self.over = threading.Event()
        # Retained messages come once, not at each connect
        once = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        client.subscribe(self.topic, options=once)

    def on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Take a message. At QoS 1 the window, ReceiveMaximum, bounds how many are under way."""
        self.came += 1
        taken, size = Taken(message, self.over), len(message.payload)
        if taken.qos == 0 and self.store.counts["bytes"] + size > MAX_QOS0:
            log("dropped, publish with QoS 1 to be safe", topic=taken.topic)
            self.store.count(dropped=1)
            return
        self.store.count(taken=1, bytes=size)
        taken.upload = self.uploads.submit(self.deliver, client, taken)
        self.taken.put(taken)

    def deliver(self, client: mqtt.Client, taken: Taken) -> mqtt.MQTTMessageInfo | None:
        """Store a message; its receipt leaves at once, whatever the others do. Raises Gone."""
        receipt = send_receipt(client, taken) if store_message(self.store, taken) else None
        if receipt and receipt.rc:
            raise Gone
        return receipt

    def acknowledge(self, client: Client) -> None:
        """Acknowledge in the order received (MQTT 5, 4.6), each once the broker has its receipt."""
        while taken := self.taken.get():
            # Over a new connection the same number is another message
            while taken.over is self.over and not futures.wait([taken.upload], 1).done:
                pass
            with suppress(Gone):
                receipt = taken.upload.result() if taken.over is self.over else None
                while taken.over is self.over and receipt and not receipt.is_published():
                    receipt.wait_for_publish(1)
                if taken.over is self.over:
                    client.ack(taken.mid, taken.qos)
            self.store.count(taken=-1, bytes=-len(taken.payload))
            if taken.upload.cancel():  # not begun; the pool would hold it until a thread is free
                taken.payload = b""
            client.pulse.beat("acknowledger")

    def leave(self, client: Client) -> bool:
        """If others go on, be dealt nothing more and store what was dealt; tells whether all of it is."""
        # Of a StatefulSet's names, s3sink-0 and so on, the highest are taken away first; the session of number 0, or of
        # a sink without a number, keeps what comes meanwhile
        if not (self.topic.startswith("$share/") and re.search(r"-[1-9]\d*$", client.broker.client_id)):
            return False
        give_up = time.monotonic() + LEAVE
        while time.monotonic() < give_up:
            before = self.over, self.came
            client.unsubscribe(self.topic)  # again, for a new connection has subscribed
            if not self.store.counts["taken"] and (said := client.say()) and not said.rc:
                # A broker answers in order: whatever it had for this sink has come before
                said.wait_for_publish(5)
                if said.is_published() and before == (self.over, self.came):
                    client.connected = lambda *_: None  # or a new connection would subscribe again
                    log("left for good, for the sinks that stay to go on")
                    return True
            time.sleep(0.2)
        log("more was dealt to this sink than it could store, it does when it is back", left=self.store.counts["taken"])
        return False
