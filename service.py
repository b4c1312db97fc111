"""What the services share: settings, log lines, signs of life, the MQTT client, status."""

import _thread
import argparse
import base64
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
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

VERSION = "0.2.0"
DAY = 24 * 3600  # s, for SessionExpiryInterval
KEEPALIVE = 10  # s; the broker gives up a client after 1.5 times that
STUCK = 60  # s without a sign of life; the longest wait of a healthy network thread is 10, between two connects
POISONED = 3  # connections in a row that ended at a message that paho cannot take
MAX_PACKET = 1_000_000  # bytes; max_packet_size of mosquitto/*/mosquitto.conf
# What a broker may lack by its CONNACK: the least that is needed, and what does not work below
LACKS = {
    "MaximumPacketSize": (MAX_PACKET, "pictures that are larger do not pass, lower FACE_MAX_SIDE"),
    "SharedSubscriptionAvailable": (1, "run one sink, with MQTT_TOPIC=faces/#: nothing may come by $share"),
    "RetainAvailable": (1, "make status sees only what is said while it looks"),
    "WildcardSubscriptionAvailable": (1, "name each topic in MQTT_TOPIC"),
}
# notBefore and notAfter of a certificate (RFC 5280, 4.1.2.5): UTCTime until 2049, then GeneralizedTime
VALIDITY = rb"(?:\x17\x0d|\x18\x0f)\d{12,14}Z(?:\x17\x0d|\x18\x0f)(\d{12,14})Z"
HOST = r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|[\da-fA-F]*:[\da-fA-F:.]*:[\w.%-]*"  # a name or IPv4; IPv6


class Broker(NamedTuple):
    """Where the broker is and who we are; `certs` is a directory with ca.crt, tls.crt, tls.key, or empty."""

    host: str
    port: int
    certs: str
    client_id: str
    every: float  # s between two status messages


class Settings:
    """The environment, checked, and the flags of the command line; all bad settings are named at once."""

    def __init__(self, env: Mapping[str, str], given: Any = None) -> None:
        self.env, self.given = env, given
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
        value = self.env.get(name) or f"{default:.15g}"
        if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) and low <= float(value) <= high:
            return float(value)
        self.refuse(name, value, f"give a number from {low:.15g} to {high:.15g}")
        return default

    def broker(self, client_id: str) -> Broker:
        certs = self.env.get("MQTT_CERTS", "")
        try:
            read_certs(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certs)
        except (OSError, ValueError) as error:
            self.refuse("MQTT_CERTS", certs, f"{error}; mosquitto/certs makes ca.crt, tls.crt and tls.key")
        return Broker(
            self.text("MQTT_HOST", "localhost", HOST, "give a host name or an address"),
            int(self.number("MQTT_PORT", 8883 if certs else 1883, 1, 65535)),
            certs,
            self.text("MQTT_CLIENT_ID", client_id, r"[\w.-]{1,64}", "up to 64 letters, digits, dots, dashes"),
            self.number("STATUS_INTERVAL", 10, 0.1, 3600),
        )

    def refuse_bad(self) -> None:
        """End the process with status 2 when a setting was bad, naming every one of them."""
        if self.bad:
            print("\n".join(self.bad), file=sys.stderr)
            sys.exit(2)


def read_certs(context: ssl.SSLContext, certs: str) -> dict[str, object]:
    """Read the certificates of a directory into a context, and give until when ours is valid; raises OSError."""
    if not certs:
        return {}
    ca, cert, key = (Path(certs, name) for name in ("ca.crt", "tls.crt", "tls.key"))
    for path in (ca, cert, key):
        path.read_bytes()  # its error names the file, OpenSSL's does not
    context.load_verify_locations(ca)
    context.load_cert_chain(cert, key, password="")  # or OpenSSL asks the terminal for one
    return certificate_until(cert)


def certificate_until(path: Path) -> dict[str, object]:
    """Give until when a certificate in PEM is valid, in words and in s, or `certificate_error`, what is wrong."""
    try:
        pem = re.search("-BEGIN (?:X509 |TRUSTED )?CERTIFICATE-+([^-]+)", path.read_text("ascii", "replace"))
        found = re.search(VALIDITY, base64.b64decode(pem[1])) if pem else None
    except (OSError, ValueError) as error:
        return {"certificate_error": str(error)}
    if not found:
        return {"certificate_error": "no certificate in PEM"}
    until = datetime.strptime(f"20{found[1].decode()}Z"[-15:], "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
    return {"certificate_until": f"{until:%FT%TZ}", "certificate_until_s": int(until.timestamp())}


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


def read_settings(doc: str | None, *flags: str) -> Settings:
    """Take the command line, which `doc` describes, and `.env` of this directory and no other.

    Ends the process with status 2 when one of them is bad.
    """
    parser = argparse.ArgumentParser(" ".join(sys.orig_argv[:3]), description=doc, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=VERSION)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    try:
        load_dotenv(Path(".env"))
    except (OSError, ValueError) as error:
        parser.exit(2, f".env: {error}; save it as UTF-8, readable by this user\n")
    return Settings(os.environ, given)


def start() -> threading.Event:
    """Let a failure end the process, and give the event that SIGTERM and Ctrl-C set."""
    sys.excepthook = end_process
    threading.excepthook = lambda failure: end_process(*failure[:2])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Setting it here can dead-lock with the thread that is interrupted
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop


def end_process(kind: type[BaseException], error: object, _trace: object = None) -> None:
    """End the process when one of its threads fails, so that the platform starts it afresh."""
    signal.alarm(5)  # ends it, too, should the log hang
    status = getattr(error, "status", None)  # then it is for a person, and says itself what to do
    try:
        if status:
            print(error, file=sys.stderr, flush=True)
        else:
            log("failed", error=f"{kind.__name__}: {error}")
    finally:
        os._exit(status or 70)  # EX_SOFTWARE


def packet(kind: str, **values: object) -> Properties:
    """Give the properties of an MQTT 5 packet, by paho's names for them; None leaves one out."""
    properties = Properties(getattr(PacketTypes, kind))
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties


class Pulse:
    """What HEARTBEAT rests on: a file, touched while every part of the service gives signs of life."""

    def __init__(self, *parts: str) -> None:
        self.heard = dict.fromkeys(parts, time.monotonic())
        self.touched = 0.0

    def beat(self, part: str) -> None:
        """Note that a part made progress, or waits for a known reason; every STUCK s at least."""
        now = self.heard[part] = time.monotonic()
        if (heartbeat := os.environ.get("HEARTBEAT")) and now > self.touched + 1 and not self.stuck():
            self.touched = now
            Path(heartbeat).touch()

    def stuck(self) -> str:
        now = time.monotonic()
        return " ".join(part for part, heard in self.heard.items() if now - heard > STUCK)


Connected = Callable[[mqtt.Client, Properties], object]
Report = Callable[[], Mapping[str, object]]


class Client(mqtt.Client):
    """An MQTT 5 client that connects, and connects again, by itself once its loop is started.

    `connected` is called after each connect with the CONNACK's properties, `properties` are the CONNECT's,
    `report` gives what the status message says beside its state, or another state than "up".
    """

    poisoned = 0
    refused = False  # a subscription

    def __init__(
        self, broker: Broker, status: str, connected: Connected, properties: Properties, report: Report, *parts: str
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, broker.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        self.broker, self.address = broker, f"{broker.host}:{broker.port}"
        self.status, self.connected, self.report = status, connected, report
        self.pulse = Pulse("network", *parts)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if broker.certs:
            self.tls_set_context(self.tls)
        self.will_set(status, json.dumps({"state": "down"}), qos=1, retain=True)
        self.reconnect_delay_set(min_delay=1, max_delay=10)  # as the bridge, whose faces would wait for the sink
        self.on_pre_connect, self.on_connect, self.on_disconnect = self.prepare, self.begun, self.ended
        self.on_connect_fail = lambda *_: log("broker away, trying again", broker=self.address, error=sys.exc_info()[1])
        self.on_subscribe, self.on_socket_unregister_write = self.subscribed, self.wrote
        self.connect_async(broker.host, broker.port, KEEPALIVE, clean_start=False, properties=properties)

    def prepare(self, *_: object) -> None:
        """Read the certificates again, and choose between the session that the broker keeps and a clean one."""
        self.pulse.beat("network")
        self.valid = read_certs(self.tls, self.broker.certs)
        self.acked = self.blocked = False
        # paho takes it in `connect_async` only, which would throw its loop back to the start
        self._clean_start = self.poisoned >= POISONED

    def begun(self, _client: object, _data: object, _flags: object, reason: Any, connack: Any) -> None:
        log("broker refuses" if reason.is_failure else "connected", broker=self.address, reason=reason)
        if reason.is_failure:
            return
        for name, (least, harm) in LACKS.items():
            if (has := getattr(connack, name, least)) < least:
                log("broker lacks", what=name, has=has, so=harm)
        if self._clean_start:
            self.poisoned = 0
            log("SESSION GIVEN UP, a message in it cannot be read: what was queued is lost, or sent again")
        self.refused = False
        self.connected(self, connack)
        self.say()  # takes the place of the last will at once

    def subscribed(self, _client: object, _data: object, _mid: int, reasons: list[Any], _more: object) -> None:
        """Say that the broker refuses a subscription; the rest goes on: a detector has faces to cut and to keep."""
        for reason in reasons:
            if reason.is_failure:
                self.refused = True
                log("broker refuses a subscription, see its ACL and MQTT_TOPIC", broker=self.address, reason=reason)
                self.say()

    def ack(self, mid: int, qos: int) -> MQTTErrorCode:
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
        self.wrote()  # notes whether it was blocked to the end
        self.poisoned += self.blocked or reason == "Protocol error"
        log("disconnected", broker=self.address, reason=reason)

    def say(self, **more: object) -> mqtt.MQTTMessageInfo | None:
        """Publish the retained status message; None without a connection, when they would pile up."""
        if not self.is_connected():
            return None
        # Who reads `every` knows from when on it is silence
        said = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "every": self.broker.every}
        said |= {"state": "up", "version": VERSION, **self.valid, **self.report()}
        said |= {"state": "stuck"} if self.pulse.stuck() else {"state": "refused"} if self.refused else {}
        return self.publish(self.status, json.dumps({**said, **more}), qos=1, retain=True)

    def say_until(self, stop: threading.Event) -> None:
        while not stop.wait(self.broker.every):
            self.say()

    def leave(self, state: str, for_good: bool = False) -> None:
        """Say the last status and disconnect, within 10 s; a leave that reaches the broker does not send the will.

        Who leaves for good takes its status back, and ends its session.
        """
        left = threading.Event()

        def await_end(_client: object, _data: object, sock: Any) -> None:
            # Closed at once, with faces coming in unread, it would take the DISCONNECT back: TCP's reset
            with suppress(OSError):
                sock.settimeout(2)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(2**16):
                    pass
            left.set()

        self.on_socket_close = await_end
        end = packet("DISCONNECT", SessionExpiryInterval=0 if for_good else None)
        if said := self.publish(self.status, b"", qos=1, retain=True) if for_good else self.say(state=state):
            said.wait_for_publish(5)
        if self.disconnect(properties=end) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            left.wait(5)
