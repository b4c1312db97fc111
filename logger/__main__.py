"""Print one line for each face that the edge's broker hears of: `python -m logger`.

`python -m logger --status` prints one table of what each service said last, and ends.
"""

import sys
from collections import Counter
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from service import Client, certificate_until, log, packet, read_settings, start

from . import status

BRIDGE = "status/bridge"  # notification_topic of mosquitto/edge/mosquitto.conf
SHOWN = ("id", "captured_at", "box", "frame_size", "score")


def on_message(client: mqtt.Client, counts: Counter[str], message: mqtt.MQTTMessage) -> None:
    if message.topic == BRIDGE:
        log("bridge", state="up" if message.payload == b"1" else "down")
    else:
        counts["faces"] += 1
        properties = dict(getattr(message.properties, "UserProperty", []))
        shown = {name: properties[name] for name in SHOWN if name in properties}
        log("face", topic=message.topic, **shown, bytes=len(message.payload))
    client.ack(message.mid, message.qos)


def main() -> None:
    """Subscribe on the edge's broker, and print until SIGTERM or Ctrl-C."""
    settings = read_settings(__doc__, "--status")
    broker = settings.broker("logger")
    topic = settings.text("MQTT_TOPIC", "faces/#", r"[^\0]+", "give a topic filter, such as faces/#")
    bridge_cert = Path(settings.text("BRIDGE_CERT", "", ".*", "give the path of the bridge's tls.crt"))
    counts = Counter(faces=0)

    def report() -> dict[str, object]:
        # Read each time, for it may have been renewed
        return {**counts, **(certificate_until(bridge_cert) if bridge_cert.name else {})}

    if wrong := report().get("certificate_error"):
        settings.refuse("BRIDGE_CERT", str(bridge_cert), f"{wrong}; give the bridge's tls.crt")
    settings.refuse_bad()
    if settings.given.status:
        sys.exit(status.show(broker))
    stop = start()

    # Who only looks keeps no queue with the broker: away for hours, it would fill it for the others
    session = packet("CONNECT", SessionExpiryInterval=0)

    def connected(client: mqtt.Client, _connack: object) -> None:
        client.subscribe([(topic, SubscribeOptions(1)), (BRIDGE, SubscribeOptions(0))])

    status_topic = f"status/logger/{broker.client_id}"
    client = Client(broker, status_topic, connected, session, report)
    client.user_data_set(counts)
    client.on_message = on_message
    client.loop_start()
    client.say_until(stop)
    client.leave("down")


if __name__ == "__main__":
    main()
