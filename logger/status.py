"""One table of what each service said last: `python -m logger --status`."""

import json
import ssl
import sys
import time
from datetime import datetime, timezone
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from service import Broker, quoted, read_certs

PATIENCE = 5.0  # s without a word from the broker
SILENT = 60  # s since the last word, at least; else six times what it says of STATUS_INTERVAL, 3600 at most
LONGEST = 10_000  # bytes; ours have some 400
HEADER = ("DEVICE", "SERVICE", "NAME", "STATE", "SAID", "COUNTERS")


def health(said: dict[str, Any], now: datetime) -> tuple[str, str]:
    """Take state, time and interval out of what a service said; give its health and its age."""
    state, at, every = str(said.pop("state")), said.pop("at", None), float(said.pop("every", 10))
    if at is None:
        return quoted(state), "-"  # a last will
    age = round((now - datetime.fromisoformat(at)).total_seconds())
    if state in ("up", "off") and not abs(age) <= max(SILENT, 6 * min(every, 3600)):
        state = "silent"
    elif state == "up" and said.get("camera", "up") != "up":
        state = "no camera"
    elif state == "up" and said.get("held", 0) != 0:
        state = "holding"
    return quoted(state), f"{age} s ago"


def status_row(topic: str, payload: bytes, now: datetime) -> tuple[str, ...]:
    """Give the row of one status message; whatever does not fit is shown as unreadable, never trusted."""
    if topic == "status/bridge":  # Mosquitto's own
        return "-", "bridge", "-", "up" if payload == b"1" else "down", "-", ""
    # an edge's broker has status/<service>/<name>, the cloud's has the device before that
    device, service, name = ["-", "-", "-", *map(quoted, topic.split("/")[1:])][-3:]
    try:
        said = json.loads(payload[:LONGEST])
        state, age = health(said, now)
        counters = " ".join(f"{quoted(key)}={quoted(str(value))}" for key, value in said.items())
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return device, service, name, "unreadable", "-", ""
    return device, service, name, state, age, counters


def table(rows: list[tuple[str, ...]]) -> str:
    """Lay the rows out in columns."""
    lines = [HEADER, *sorted(rows)]
    form = "  ".join(f"{{:{max(map(len, column))}}}" for column in zip(*lines, strict=True))
    return "\n".join(form.format(*line).rstrip() for line in lines)


def retained(broker: Broker) -> dict[str, bytes]:
    """Give the retained status messages of a broker by topic; raises OSError when it does not answer."""
    heard: dict[str, bytes] = {}
    answers: list[Any] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    if broker.certs:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        read_certs(context, broker.certs)
        client.tls_set_context(context)
    client.on_message = lambda _client, _data, message: heard.update({message.topic: bytes(message.payload)})
    client.on_subscribe = client.on_unsubscribe = lambda *args: answers.extend(args[3])
    client.connect(broker.host, broker.port)
    for ask in (client.subscribe, client.unsubscribe):  # what is retained comes before the second answer
        ask("status/#")
        while not answers:
            given_up = time.monotonic() + PATIENCE
            if client.loop(PATIENCE) or time.monotonic() >= given_up:
                raise TimeoutError("the broker does not answer, or refuses this certificate")
        if (reason := answers.pop()).is_failure:
            raise PermissionError(f"the broker refuses status/#: {reason}; use the operator's certificate")
    client.disconnect()
    return heard


def show(broker: Broker) -> int:
    """Print the table; gives 0 when everything is up, off or done, 1 when not, 69 when there is no broker."""
    try:
        heard = retained(broker)
    except OSError as error:
        print(f"MQTT_HOST={broker.host} MQTT_PORT={broker.port}: {error}", file=sys.stderr)
        return 69  # EX_UNAVAILABLE
    rows = [status_row(topic, payload, datetime.now(timezone.utc)) for topic, payload in heard.items()]
    print(table(rows))
    return 0 if rows and all(row[3] in ("up", "off", "done") for row in rows) else 1
