"""Store every face that reaches the cloud's broker in an S3 bucket: `python -m s3sink`."""

import os
import queue
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from service import DAY, Pulse, Settings, connect, disconnect, log, say_status, start

from .bucket import bucket_name
from .objects import rejected_object, stored_object, valid_id
from .store import Gone, Store, s3_client

BREAKER = 50  # rejections in a row: then it is rather our reading that is bad than all the images
BREAKER_HOLD = 10.0  # s that each further rejection is held, so that an operator can step in
MAX_TOPIC = 65535  # bytes, MQTT 5, 1.5.4
MAX_QOS0 = 200  # messages of QoS 0 under way; no window bounds them


def store_message(store: Store, message: mqtt.MQTTMessage, gone: threading.Event) -> None:
    """Store a face, or what is no image under `rejected/`; returns when the bucket has it, raises Gone."""
    properties = getattr(message.properties, "UserProperty", [])
    payload = bytes(message.payload)
    began = time.monotonic()
    try:
        target = stored_object(message.topic, properties, payload)
        image = True
    except ValueError as reason:
        log("no image", topic=message.topic, reason=reason)
        target = rejected_object(message.topic, properties, payload, str(reason))
        image = False
        if store.counts["rejected_in_a_row"] >= BREAKER:
            log(
                "rejecting slowly, nothing but no images: look at rejected/ in the bucket",
                topic=message.topic,
            )
            if gone.wait(BREAKER_HOLD):
                raise Gone from reason
    store.put(target, payload, gone)
    store.note(image)
    log("stored", key=target.key, bytes=len(payload), ms=round(1000 * (time.monotonic() - began)))


def send_receipt(client: mqtt.Client, message: mqtt.MQTTMessage) -> None:
    """Tell the detector that this face lies in the bucket; one without an id has nobody who waits for it."""
    prefix, _, rest = message.topic.partition("/")
    try:
        receipt = valid_id(dict(getattr(message.properties, "UserProperty", [])))
    except ValueError:
        return
    topic = f"receipts/{rest}"
    if prefix == "faces" and len(topic.encode()) <= MAX_TOPIC:
        client.publish(topic, receipt, qos=1)


class Sink:
    """The way of each message: taken, stored, then acknowledged in the order received (MQTT 5, 4.6)."""

    def __init__(self, store: Store, topic: str, uploads: int) -> None:
        self.store = store
        self.topic = topic
        self.pool = ThreadPoolExecutor(uploads)
        self.gone = threading.Event()  # one for each connection
        self.taken: queue.Queue[tuple[mqtt.MQTTMessage, threading.Event, Future[None]] | None] = queue.Queue()

    def connected(self, client: mqtt.Client, _connack: Properties) -> None:
        """Let go of what came over the last connection, the broker sends it again; subscribe."""
        self.gone.set()
        self.gone = threading.Event()
        client.subscribe(self.topic, qos=1)

    def on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Begin to store a message. At QoS 1 the window, ReceiveMaximum, bounds how many are under way."""
        if message.qos == 0 and self.taken.qsize() >= MAX_QOS0:
            log("dropped, publish with QoS 1 to be safe", topic=message.topic)
            self.store.count(dropped=1)
            return
        gone = self.gone
        self.store.count(taken=1)
        self.taken.put((message, gone, self.pool.submit(store_message, self.store, message, gone)))

    def acknowledge(self, client: mqtt.Client) -> None:
        """Acknowledge what is stored, until drained."""
        while taken := self.taken.get():
            message, gone, upload = taken
            try:
                upload.result()
            except (Gone, CancelledError):
                continue
            finally:
                self.store.count(taken=-1)
            send_receipt(client, message)
            # On another connection the same number is another message
            if gone is self.gone:
                client.ack(message.mid, message.qos)

    def drain(self) -> None:
        """End what is being tried again, finish what is being sent; the rest stays with the broker."""
        self.gone.set()
        self.pool.shutdown(cancel_futures=True)
        self.taken.put(None)


def main() -> None:
    """Subscribe on the cloud's broker, and store until SIGTERM or Ctrl-C."""
    stop = start()
    settings = Settings(os.environ)
    broker = settings.broker("s3sink")
    topic = settings.text("MQTT_TOPIC", "faces/#", r"[^\0]+", "give a topic filter, such as faces/#")
    bucket = bucket_name(settings)
    uploads = int(settings.number("S3_UPLOADS", 8, 1, 64))
    status_every = settings.number("STATUS_INTERVAL", 10, 0.1, 3600)
    settings.refuse_bad()

    store = Store(s3_client(uploads), bucket)
    sink = Sink(store, topic, uploads)
    status = f"status/s3sink/{broker.client_id}"
    pulse = Pulse("network")
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = DAY
    # More than are being uploaded: one slow PUT holds back the acknowledgements behind it, not the uploads
    session.ReceiveMaximum = 4 * uploads
    client = connect(broker, status, sink.connected, session, pulse)
    client.on_message = sink.on_message
    acknowledger = threading.Thread(target=sink.acknowledge, args=[client])
    acknowledger.start()
    client.loop_start()
    while not stop.wait(status_every):
        say_status(client, status, "stuck" if pulse.stuck() else "up", store.report())

    client.on_message = None
    sink.drain()
    acknowledger.join()
    disconnect(client, status, "down", store.report())


if __name__ == "__main__":
    main()
