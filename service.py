"""What the services share: settings, log lines, signs of life, the MQTT client, status."""

import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from dotenv import load_dotenv
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties

DAY = 24 * 3600  # s, for SessionExpiryInterval
KEEPALIVE = 10  # s; the broker gives up a client after 1.5 times that
STUCK = 60  # s without a sign of life; the longest wait of a healthy network thread is 30, between two connects
POISONED = 3  # connections in a row that ended at a message that paho cannot take
HOST = r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|[\da-fA-F]*:[\da-fA-F:.]*:[\w.%-]*"  # a name or IPv4; IPv6


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

    def refuse(self, name: str, value: str, remedy: object) -> None:
        """Note a bad setting; what stands before an @ may be a password."""
        shown = re.sub(".*@", "...@", value, flags=re.DOTALL)
        self.bad.append(f"{name}={shown if shown.isprintable() else ascii(shown)}: {remedy}")

    def text(self, name: str, default: str, pattern: str, remedy: str) -> str:
        """Take a setting that matches `pattern` as a whole; unset and empty mean `default`."""
        value = self.env.get(name) or default
        if not re.fullmatch(pattern, value, re.ASCII):
            self.refuse(name, value, remedy)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Take a number from `low` to `high`."""
        value = self.env.get(name) or f"{default:.15g}"
        if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) and low <= float(value) <= high:
            return float(value)
        self.refuse(name, value, f"give a number from {low:.15g} to {high:.15g}")
        return default

    def broker(self, client_id: str) -> Broker:
        """Take MQTT_HOST, MQTT_PORT, MQTT_CERTS and MQTT_CLIENT_ID."""
        certs = self.env.get("MQTT_CERTS", "")
        try:
            read_certs(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certs)
        except OSError as error:
            self.refuse("MQTT_CERTS", certs, f"{error}; mosquitto/certs makes ca.crt, tls.crt and tls.key")
        return Broker(
            self.text("MQTT_HOST", "localhost", HOST, "give a host name or an address"),
            int(self.number("MQTT_PORT", 8883 if certs else 1883, 1, 65535)),
            certs,
            self.text("MQTT_CLIENT_ID", client_id, r"[\w.-]{1,64}", "up to 64 letters, digits, dots, dashes"),
        )

    def refuse_bad(self) -> None:
        """End the process with status 2 when a setting was bad, naming every one of them."""
        if self.bad:
            print("\n".join(self.bad), file=sys.stderr)
            sys.exit(2)


def read_certs(context: ssl.SSLContext, certs: str) -> None:
    """Read the certificates of a directory, if one is named, into a context; raises OSError."""
    if certs:
        ca, cert, key = (Path(certs, name) for name in ("ca.crt", "tls.crt", "tls.key"))
        for path in (ca, cert, key):
            path.read_bytes()  # its error names the file, OpenSSL's does not
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key, password="")  # or OpenSSL asks the terminal for one


def log(event: str, **fields: object) -> None:
    """Print one line, `event: key=value ...`; no value can break the line or be endless; never raises."""
    with suppress(Exception):  # a full disk, a closed pipe: the work goes on
        words = [f"{event}:", *(f"{key}={quoted(str(value))}" for key, value in fields.items())]
        # One write, so that the lines of several threads stay whole
        sys.stdout.write(" ".join(words) + "\n")
        sys.stdout.flush()


def quoted(value: str) -> str:
    """Give a plain word as it is, anything else as an ASCII JSON string, cut at 200 characters."""
    return value if re.fullmatch(r"[\w.,:;/+@%=-]{1,200}", value, re.ASCII) else json.dumps(value[:200])


def read_env_file() -> None:
    """Read `.env`, of this directory and no other; ends the process with status 2 when it is no text."""
    try:
        load_dotenv(Path(".env"))
    except (OSError, ValueError) as error:
        print(f".env: {error}; save it as UTF-8, readable by this user", file=sys.stderr)
        sys.exit(2)


def start() -> threading.Event:
    """Read `.env`, and give the event that SIGTERM and Ctrl-C set."""
    read_env_file()
    sys.excepthook = end_process
    threading.excepthook = lambda failure: end_process(*failure[:2])
    stop = threading.Event()
    # A handler that sets an event can dead-lock with the thread that it interrupts; a byte in a pipe cannot
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=lambda: [os.read(reader, 1), stop.set()], daemon=True).start()  # type: ignore[func-returns-value]
    return stop


def end_process(kind: type[BaseException], error: object, _trace: object = None) -> None:
    """End the process when one of its threads fails, so that the platform starts it afresh.

    An error with a `status` is for a person: it says itself what to do. Any other is a fault of ours.
    """
    signal.alarm(5)  # ends it, too, should the log hang
    status = getattr(error, "status", None)
    try:
        if status:
            print(error, file=sys.stderr, flush=True)
        else:
            log("failed", error=f"{kind.__name__}: {error}")
    finally:
        os._exit(status or 70)  # EX_SOFTWARE


class Pulse:
    """What HEARTBEAT rests on: a file, touched while every part of the service gives signs of life."""

    def __init__(self, *parts: str) -> None:
        self.heard = dict.fromkeys(parts, time.monotonic())
        self.touched = 0.0

    def beat(self, part: str) -> None:
        """Note that a part made progress, or is known to wait for a known reason; every 60 s at least."""
        now = self.heard[part] = time.monotonic()
        if (heartbeat := os.environ.get("HEARTBEAT")) and now > self.touched + 1 and not self.stuck():
            self.touched = now
            Path(heartbeat).touch()

    def stuck(self) -> str:
        """Name the parts that have not been heard of for 60 s; empty when there is none."""
        now = time.monotonic()
        return " ".join(part for part, heard in self.heard.items() if now - heard > STUCK)


class Client(mqtt.Client):
    """An MQTT 5 client that connects, and connects again, by itself once its loop is started.

    `status` gets a last will, `connected` is called after each connect with the properties of the CONNACK,
    `properties` are those of the CONNECT. Each connect reads the certificates again.
    """

    def __init__(
        self,
        broker: Broker,
        status: str,
        connected: Callable[[mqtt.Client, Properties], object],
        properties: Properties,
        pulse: Pulse,
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, broker.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        self.address, self.certs = f"{broker.host}:{broker.port}", broker.certs
        self.status, self.connected, self.pulse = status, connected, pulse
        self.poisoned = 0
        self.said: tuple[str, Mapping[str, object]] = ("up", {})
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if broker.certs:
            self.tls_set_context(self.tls)
        self.will_set(status, json.dumps({"state": "down"}), qos=1, retain=True)
        self.reconnect_delay_set(min_delay=1, max_delay=30)  # each try says a line, so at growing intervals
        self.on_pre_connect, self.on_connect, self.on_disconnect = self.prepare, self.begun, self.ended
        self.on_connect_fail = lambda *_: log("broker away, trying again", broker=self.address, error=sys.exc_info()[1])
        self.on_socket_unregister_write = self.wrote
        self.connect_async(broker.host, broker.port, KEEPALIVE, clean_start=False, properties=properties)

    def prepare(self, *_: object) -> None:
        """Read the certificates, and choose between the session that the broker keeps and a clean one."""
        self.pulse.beat("network")
        read_certs(self.tls, self.certs)
        self.acked = self.blocked = False
        # paho takes it in `connect_async` only, which would throw its loop back to the start
        self._clean_start = self.poisoned >= POISONED

    def begun(self, _client: object, _data: object, _flags: object, reason: Any, connack: Any) -> None:
        """Say that there is a connection, or why not, and leave the rest to the service."""
        log("broker refuses" if reason.is_failure else "connected", broker=self.address, reason=reason)
        if reason.is_failure:
            return
        if self._clean_start:
            self.poisoned = 0
            log("SESSION GIVEN UP, a message in it cannot be read: what was queued is lost, or sent again")
        self.connected(self, connack)
        # Takes the place of the last will at once, with what was to be said last
        state, counts = self.said
        say_status(self, self.status, "stuck" if self.pulse.stuck() else state, counts)

    def ack(self, mid: int, qos: int) -> MQTTErrorCode:
        """Acknowledge a message, and note that one was done."""
        self.acked = True
        return super().ack(mid, qos)

    def wrote(self, *_: object) -> None:
        """Note that the network thread lives: it has written all there was, each KEEPALIVE a PINGREQ."""
        # Parsing 98,000 user properties takes 22 s; meanwhile the broker has given us up
        self.blocked |= time.monotonic() - self.pulse.heard["network"] > 1.5 * KEEPALIVE
        self.pulse.beat("network")
        if self.acked and self.socket() and not self.blocked:
            self.poisoned = 0

    def ended(self, _client: object, _data: object, _flags: object, reason: object, _more: object) -> None:
        """Count the connections that ended at a message that paho cannot take."""
        self.wrote()  # notes whether it was blocked to the end
        self.poisoned += self.blocked or reason == "Protocol error"
        log("disconnected", broker=self.address, reason=reason)


connect = Client


def say_status(client: Client, status: str, state: str, counts: Mapping[str, object]) -> mqtt.MQTTMessageInfo | None:
    """Publish the retained status message; without a connection it is said at the next."""
    client.said = state, counts
    if not client.is_connected():  # they would pile up in memory
        return None
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    every = float(os.environ.get("STATUS_INTERVAL") or 10)  # who reads it knows from when on it is silence
    said = {"state": state, "at": at, "every": every, **counts}
    return client.publish(status, json.dumps(said), qos=1, retain=True)


def disconnect(client: Client, status: str, state: str, counts: Mapping[str, object]) -> None:
    """Say the last status and leave, within 10 s; a leave that reaches the broker does not send the will."""
    left = threading.Event()

    def await_end(_client: object, _data: object, sock: Any) -> None:
        # Closed at once, with faces coming in unread, it would take the DISCONNECT back: TCP's reset
        with suppress(OSError):
            sock.settimeout(2)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(2**16):
                pass
        left.set()

    client.on_socket_close = await_end
    if said := say_status(client, status, state, counts):
        said.wait_for_publish(5)
    if client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
        left.wait(5)
