"""What a device that is taken over, or only badly written, can send: each of it legal MQTT, none of it a face."""

from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

JPEG = b"\xff\xd8\xff\xc0\0\x11\x08\0\x40\0\x40\x03" + bytes(300)  # a frame header of 64 x 64 px
Message = tuple[str, bytes, list[tuple[str, str]], bool]  # topic below the device, payload, properties, retained


def poison() -> Iterator[Message]:
    """Give each kind once."""
    yield "no-image", b"twelve bytes", [("id", "0" * 16)], False
    yield "unreadable", JPEG, [("id", "1" * 16), ("camera", "\ufeffcam")], False
    yield "wordy", JPEG, [(f"name-{number}", "value") for number in range(300)], False
    yield "endless", JPEG, [("", "")] * 20_000, False
    yield "refused", JPEG, [("id", "2" * 16), ("captured_at", "2026-01-01T00:00:00Z")], False
    yield "kept", JPEG + b"kept", [], True
    yield "kept", b"", [], True
    yield "deep/" + "x" * 300 + "/" + "y/" * 150, JPEG, [], False
    yield "times", JPEG, [("id", "3" * 16), ("captured_at", "9999-99-99T99:99:99Z")], False


def send(client: mqtt.Client, device: str, message: Message) -> Any:
    """Publish one of them, QoS 1."""
    topic, payload, words, retained = message
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = words
    return client.publish(f"faces/{device}/{topic}", payload, qos=1, retain=retained, properties=properties)
