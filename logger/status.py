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
Row = tuple[str, str, str, str, str, str]


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


def status_row(topic: str, payload: bytes, now: datetime) -> Row:
    """Give the row of one status message; whatever does not fit is shown as unreadable, never trusted."""
    levels = [quoted(level) for level in topic.split("/")[1:]]
    # an edge's broker has status/<service>/<name>, the cloud's has the device before that
    device, service, name = (["-"] * 3 + levels)[-3:] if len(levels) > 1 else ["-", *levels, "-"]
    if topic == "status/bridge":
        return "-", "bridge", "-", "up" if payload == b"1" else "down", "-", ""
    try:
        said = json.loads(payload[:LONGEST])
        state, age = health(said, now)
        counters = " ".join(f"{quoted(key)}={quoted(str(value))}" for key, value in said.items())
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return device, service, name, "unreadable", "-", ""
    return device, service, name, state, age, counters


def table(rows: list[Row]) -> str:
    """Lay the rows out in columns."""
    lines = [HEADER, *sorted(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    laid_out = ("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in laid_out)


def retained(broker: Broker) -> dict[str, bytes]:
    """Give the retained status messages of a broker by topic; raises OSError when it does not answer."""
    heard: dict[str, bytes] = {}
    over: list[int] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    if broker.certs:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        read_certs(context, broker.certs)
        client.tls_set_context(context)

    def granted(_client: object, _data: object, _mid: int, reasons: list[Any], _more: object) -> None:
        if reasons[0].is_failure:
            raise PermissionError(f"the broker refuses status/#: {reasons[0]}; use the operator's certificate")
        client.unsubscribe("status/#")  # what is retained comes before its answer

    client.on_subscribe = granted
    client.on_unsubscribe = lambda *_: over.append(1)
    client.on_message = lambda *args: heard.update({args[2].topic: bytes(args[2].payload)})
    client.connect(broker.host, broker.port)
    client.subscribe("status/#", qos=0)
    size, give_up = 0, time.monotonic() + PATIENCE
    while not over:
        client.loop(0.5)
        if len(heard) > size:  # a slow link, a large fleet
            size, give_up = len(heard), time.monotonic() + PATIENCE
        if time.monotonic() > give_up:
            raise TimeoutError("the broker does not answer, or refuses this certificate")
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
