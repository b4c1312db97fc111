"""One table of what each service said last: `python -m logger --status`."""

import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from service import Broker, quoted

PATIENCE = 5.0  # s to wait for the broker
QUIET = 0.5  # s without a further retained message until the table is whole
SILENT = 60  # s since the last word of a service that says it is up: six times STATUS_INTERVAL
HEADER = ("DEVICE", "SERVICE", "NAME", "STATE", "SAID", "COUNTERS")
Row = tuple[str, str, str, str, str, str]


def status_row(topic: str, payload: bytes, now: datetime) -> Row:
    """Give the row of one status message; whatever does not fit is shown as unreadable, never trusted."""
    levels = [quoted(level) for level in topic.split("/")[1:]]
    # an edge's broker has status/<service>/<name>, the cloud's has the device before that
    device, service, name = (["-"] * 3 + levels)[-3:] if len(levels) > 1 else ["-", *levels, "-"]
    if topic == "status/bridge":
        return "-", "bridge", "-", "up" if payload == b"1" else "down", "-", ""
    try:
        said: dict[str, Any] = json.loads(payload)
        state = quoted(str(said.pop("state")))
        at = said.pop("at", None)
        age = round((now - datetime.fromisoformat(at)).total_seconds()) if at else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return device, service, name, "unreadable", "-", ""
    if state == "up" and age is not None and age > SILENT:
        state = "silent"
    counters = " ".join(f"{quoted(key)}={quoted(str(value))}" for key, value in said.items())
    return device, service, name, state, "-" if age is None else f"{age} s ago", counters


def table(rows: list[Row]) -> str:
    """Lay the rows out in columns."""
    lines = [HEADER, *sorted(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    laid_out = (
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in laid_out)


def retained(broker: Broker) -> dict[str, bytes]:
    """Give the retained status messages of a broker by topic; raises OSError when it does not answer."""
    heard: dict[str, bytes] = {}
    asked: list[int] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    if broker.certs:
        certs = Path(broker.certs)
        client.tls_set(str(certs / "ca.crt"), str(certs / "tls.crt"), str(certs / "tls.key"))
    client.on_subscribe = lambda *args: asked.append(args[2])
    client.on_message = lambda *args: heard.update({args[2].topic: bytes(args[2].payload)})
    client.connect(broker.host, broker.port)
    client.subscribe("status/#", qos=0)
    give_up = time.monotonic() + PATIENCE
    while not asked and time.monotonic() < give_up:
        client.loop(QUIET)
    if not asked:
        raise TimeoutError("the broker does not answer, or refuses this certificate")
    # All that is retained comes right after the answer; the table is whole once nothing more does
    count = -1
    while count != len(heard):
        count, until = len(heard), time.monotonic() + QUIET
        while time.monotonic() < until:
            client.loop(QUIET / 10)
    client.disconnect()
    return heard


def print_status(broker: Broker) -> int:
    """Print the table; gives 0 when everything is up or done, 1 when not, 69 when there is no broker."""
    try:
        heard = retained(broker)
    except OSError as error:
        print(f"MQTT_HOST={broker.host} MQTT_PORT={broker.port}: {error}", file=sys.stderr)
        return 69  # EX_UNAVAILABLE
    now = datetime.now(timezone.utc)
    rows = [status_row(topic, payload, now) for topic, payload in heard.items()]
    print(table(rows))
    return 0 if rows and all(row[3] in ("up", "done") for row in rows) else 1
