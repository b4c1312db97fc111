"""What the services share: settings, log lines, the MQTT client, status."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from dotenv import find_dotenv, load_dotenv
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SESSION_EXPIRY = 7 * 24 * 3600  # s; the edge's bridge asks for the same


class Broker(NamedTuple):
    """Where the broker is and who we are; `certs` is a directory with ca.crt, tls.crt, tls.key, or empty."""

    host: str
    port: int
    certs: str
    client_id: str


class Settings:
    """The environment, checked: every bad setting is collected, and all of them are named at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.bad: list[str] = []

    def text(self, name: str, default: str, pattern: str, remedy: str) -> str:
        """Take a setting that matches `pattern` as a whole; unset and empty mean `default`."""
        value = self.env.get(name) or default
        if not re.fullmatch(pattern, value, re.ASCII):
            self.bad.append(f"{name}={value}: {remedy}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Take a number from `low` to `high`."""
        value = self.env.get(name) or f"{default:.15g}"
        if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) and low <= float(value) <= high:
            return float(value)
        self.bad.append(f"{name}={value}: give a number from {low:.15g} to {high:.15g}")
        return default

    def broker(self, client_id: str) -> Broker:
        """Take MQTT_HOST, MQTT_PORT, MQTT_CERTS and MQTT_CLIENT_ID."""
        certs = self.env.get("MQTT_CERTS", "")
        for name in ("ca.crt", "tls.crt", "tls.key"):
            if certs and not os.access(Path(certs, name), os.R_OK):
                self.bad.append(f"MQTT_CERTS={certs}: no readable {name} there; mosquitto/certs makes it")
        return Broker(
            self.text("MQTT_HOST", "localhost", r"\S+", "give a host name or an address"),
            int(self.number("MQTT_PORT", 8883 if certs else 1883, 1, 65535)),
            certs,
            self.text("MQTT_CLIENT_ID", client_id, r"[\w.-]{1,64}", "up to 64 letters, digits, dots, dashes"),
        )

    def refuse_bad(self) -> None:
        """End the process with status 2 when a setting was bad, naming every one of them."""
        if self.bad:
            print("\n".join(self.bad), file=sys.stderr)
            sys.exit(2)


def log(event: str, **fields: object) -> None:
    """Print one line, `event: key=value ...`; no value can break the line or run on for ever."""
    words = [f"{event}:", *(f"{key}={quoted(str(value))}" for key, value in fields.items())]
    # One write, so that the lines of several threads stay whole
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def quoted(value: str) -> str:
    """Give a plain word as it is, anything else as an ASCII JSON string, cut at 200 characters."""
    return value if re.fullmatch(r"[\w.,:;/+@%=-]{1,200}", value, re.ASCII) else json.dumps(value[:200])


def start() -> threading.Event:
    """Read `.env`, and give the event that SIGTERM and Ctrl-C set."""
    load_dotenv(find_dotenv(usecwd=True))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.excepthook = end_process
    return stop


def end_process(failure: threading.ExceptHookArgs) -> None:
    """End the process when one of its threads fails, so that the platform starts it afresh."""
    log("failed", error=f"{failure.exc_type.__name__}: {failure.exc_value}")
    os._exit(70)  # EX_SOFTWARE


def connect(
    broker: Broker, status: str, connected: Callable[[mqtt.Client], object], **options: Any
) -> mqtt.Client:
    """Make an MQTT 5 client that connects, and connects again, by itself once its loop is started.

    `status` gets a last will, `connected` is called after each connect, `options` are CONNECT properties.
    """
    client = mqtt.Client(CallbackAPIVersion.VERSION2, broker.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
    if broker.certs:
        certs = Path(broker.certs)
        client.tls_set(str(certs / "ca.crt"), str(certs / "tls.crt"), str(certs / "tls.key"))
    client.will_set(status, json.dumps({"state": "down"}), qos=1, retain=True)
    client.reconnect_delay_set(min_delay=1, max_delay=30)  # each try says a line, so at growing intervals
    address = f"{broker.host}:{broker.port}"

    def on_connect(client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        log("broker refuses" if reason.is_failure else "connected", broker=address, reason=reason)
        if not reason.is_failure:
            connected(client)
            say_status(client, status, "up", {})  # takes the place of the last will at once

    client.on_connect = on_connect
    client.on_connect_fail = lambda *_: log(
        "broker away, trying again", broker=address, error=sys.exc_info()[1]
    )
    client.on_disconnect = lambda *args: log("disconnected", broker=address, reason=args[3])
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = SESSION_EXPIRY
    for name, value in options.items():
        setattr(session, name, value)
    client.connect_async(broker.host, broker.port, keepalive=10, clean_start=False, properties=session)
    return client


def say_status(client: mqtt.Client, status: str, state: str, counts: Mapping[str, float]) -> None:
    """Publish the retained status message."""
    if client.is_connected():  # while it is not, they would pile up in memory
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        client.publish(status, json.dumps({"state": state, "at": at, **counts}), qos=1, retain=True)


def beat() -> None:
    """Touch the file HEARTBEAT, where a probe looks for progress."""
    if heartbeat := os.environ.get("HEARTBEAT"):
        Path(heartbeat).touch()


def disconnect(client: mqtt.Client, status: str, state: str, counts: Mapping[str, float]) -> None:
    """Say the last status and leave; a clean leave does not send the will."""
    say_status(client, status, state, counts)
    client.disconnect()
    client.loop_stop()
