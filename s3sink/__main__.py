"""Store every face that reaches the cloud's broker in an S3 bucket: `python -m s3sink`."""

import os
import threading

from service import DAY, Client, packet, read_settings, start

from .bucket import bucket_name
from .sink import Sink
from .store import Store

MAX_WINDOW = 100  # messages under way: of 1 MB each they fit into 256 MB
DRAIN = 9.0  # s for uploads and receipts to end at SIGTERM; the last word takes up to 10 more


def main() -> None:
    """Subscribe on the cloud's broker, and store until SIGTERM or Ctrl-C."""
    settings = read_settings(__doc__)
    broker = settings.broker("s3sink")
    topic = settings.text("MQTT_TOPIC", "faces/#", r"[^\0]+", "give a topic filter, such as faces/#")
    bucket = bucket_name(settings)
    uploads = int(settings.number("S3_UPLOADS", 8, 1, 64))
    settings.refuse_bad()
    stop = start()

    store = Store(bucket, uploads)
    sink = Sink(store, topic, uploads)
    # More than are being uploaded: one slow PUT holds back the acknowledgements behind it, not the uploads
    session = packet("CONNECT", SessionExpiryInterval=DAY, ReceiveMaximum=min(4 * uploads, MAX_WINDOW))
    status = f"status/s3sink/{broker.client_id}"
    client = Client(broker, status, sink.connected, session, store.report, "acknowledger")
    client.on_message = sink.on_message
    acknowledger = threading.Thread(target=sink.acknowledge, args=[client])
    acknowledger.start()
    client.loop_start()
    threading.Thread(target=client.say_until, args=[stop], daemon=True).start()
    while not stop.wait(1):
        if store.reason or not store.counts["taken"] or not client.is_connected():
            client.pulse.beat("acknowledger")  # it waits, and why is known

    for_good = sink.leave(client)
    sink.over.set()
    sink.taken.put(None)
    acknowledger.join(1 if store.reason else DRAIN)  # in vain while the bucket takes nothing
    client.leave("down", for_good)
    os._exit(0)  # an upload to a server that hangs may go on for minutes


if __name__ == "__main__":
    main()
