"""Print one line for each face that the edge's broker hears of: `python -m logger`.

`python -m logger --status` prints one table of what each service said last, and ends.
"""

import os
import sys
from collections import Counter

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from service import Pulse, Settings, connect, disconnect, log, say_status, start

from .status import print_status

BRIDGE = "status/bridge"  # notification_topic of mosquitto/edge/mosquitto.conf
SHOWN = ("id", "captured_at", "box", "frame_size", "score")


def on_message(client: mqtt.Client, counts: Counter[str], message: mqtt.MQTTMessage) -> None:
    """Print the line of one message: a face, or the bridge to the cloud going up or down."""
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
    stop = start()
    settings = Settings(os.environ)
    broker = settings.broker("logger")
    topic = settings.text("MQTT_TOPIC", "faces/#", r"[^\0]+", "give a topic filter, such as faces/#")
    status_every = settings.number("STATUS_INTERVAL", 10, 0.1, 3600)
    settings.refuse_bad()
    if sys.argv[1:] == ["--status"]:
        sys.exit(print_status(broker))

    counts: Counter[str] = Counter(faces=0)
    status = f"status/logger/{broker.client_id}"
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 0  # nobody keeps for it what it does not hear
    pulse = Pulse("network")

    def connected(client: mqtt.Client, _connack: Properties) -> None:
        client.subscribe([(topic, SubscribeOptions(1)), (BRIDGE, SubscribeOptions(0))])

    client = connect(broker, status, connected, session, pulse)
    client.user_data_set(counts)
    client.on_message = on_message
    client.loop_start()
    while not stop.wait(status_every):
        say_status(client, status, "stuck" if pulse.stuck() else "up", counts)
    disconnect(client, status, "down", counts)


if __name__ == "__main__":
    main()
