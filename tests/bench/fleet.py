"""How many devices does one cloud broker carry, and how soon are all back after it was killed?

`make fleet`, or `python -m tests.bench.fleet`: real bridges, a certificate each, from a few edge brokers, whose conf is
the shipped one with its `connection` block once a device; the shipped cloud broker, one sink, nginx as the store. All
of them share this machine, the bridges' half of each TLS handshake too; so openssl alone, both halves, is the peer.

FLEET (1000): devices    RATE (200): faces a second    OUTAGE (20): s that the killed broker is away
KEYS (ec): or rsa    CHANGE='restart_timeout 1 10=restart_timeout 5 60': what if both confs said that
"""

import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.bench.latency import delays
from tests.bench.sink import cpu_of, picture, start_nginx
from tests.pipeline import ROOT, Pipeline, eventually, free_port, listening, make_certs

FLEET, RATE, OUTAGE = (
    int(os.environ.get(name, default)) for name, default in (("FLEET", "1000"), ("RATE", "200"), ("OUTAGE", "20"))
)
KEYS, CHANGE = os.environ.get("KEYS", "ec"), os.environ.get("CHANGE", "")
BYTES, EDGES, SECONDS, PATIENCE = 10_000, 4, 20, 600  # of a face; brokers; of each measurement; until we give up, s


def make_many_certs(certs: Path, parties: list[str]) -> None:
    """Make certificates as mosquitto/certs does, which takes ten processes for each: here all in one."""
    ca = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    ca_key: Any = load_pem_private_key((certs / "ca.key").read_bytes(), None)
    now = datetime.now(timezone.utc)
    for name in parties:
        use = ExtendedKeyUsageOID.SERVER_AUTH if name == "cloud-broker" else ExtendedKeyUsageOID.CLIENT_AUTH
        hosts = [x509.DNSName(host) for host in (name, "localhost")]
        key: Any = rsa.generate_private_key(65537, 2048) if KEYS == "rsa" else ec.generate_private_key(ec.SECP256R1())
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=60))
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        party = certs / name
        party.mkdir(exist_ok=True)
        (party / "tls.crt").write_bytes(built.public_bytes(Encoding.PEM))
        (party / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (party / "ca.crt").write_bytes((certs / "ca.crt").read_bytes())


def changed(conf: str) -> str:
    """Give a conf with CHANGE made to it."""
    before, _, after = CHANGE.partition("=")
    return conf.replace(before, after) if before else conf


def confs(directory: Path, certs: Path, devices: list[str]) -> Path:
    """Give a copy of mosquitto/ whose edge has the bridge of each of the devices; what differs is what must."""
    copy = Path(shutil.copytree(ROOT / "mosquitto", directory))
    cloud, edge = copy / "cloud/mosquitto.conf", copy / "edge/mosquitto.conf"
    cloud.write_text(changed(cloud.read_text()))
    head, block = changed(edge.read_text()).split("\nconnection cloud\n")
    for device in devices:
        bridge = block.replace("jetson-01", device).replace("/mosquitto/certs", str(certs / device))
        # on a broker of many devices each has its own level on the edge, too
        bridge = re.sub(r"^(topic .*) (\w+)/ (\S+)$", rf"\1 \2/{device}/ \3", bridge, flags=re.M)
        bridge = bridge.replace("bridge-to-cloud", f"bridge-{device}").replace(
            "status/bridge", f"status/bridge/{device}"
        )
        head += f"\nconnection {device}\n{bridge}"
    edge.write_text(head)
    return copy


def handshakes(certs: Path, device: str, *options: str) -> tuple[float, float]:
    """Give how many handshakes a second openssl alone does, both ends here, and the server's CPU ms for each."""
    port = free_port()
    server, client = (
        [f"{certs / party}/tls.crt", "-key", f"{certs / party}/tls.key", "-CAfile", f"{certs}/ca.crt"]
        for party in ("cloud-broker", device)
    )
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    serve = ["openssl", "s_server", "-accept", str(port), "-Verify", "1", "-www", "-tls1_3", "-cert", *server]
    process = subprocess.Popen(serve, **quiet)
    try:
        eventually(lambda: listening(port))
        asked = [
            "openssl",
            "s_time",
            "-connect",
            f"localhost:{port}",
            "-www",
            "/",
            "-time",
            "5",
            *options,
            "-cert",
            *client,
        ]
        cpu, began = cpu_of(process.pid), time.monotonic()
        said = subprocess.run([*asked, *options], capture_output=True, text=True, check=True).stdout
        took, used = time.monotonic() - began, cpu_of(process.pid) - cpu
        count = int(re.findall(r"(\d+) connections in", said)[-1])
        return count / took, 1000 * used / count
    finally:
        process.kill()
        process.wait()


def resident(pid: int) -> int:
    """Give the memory of a process in kB."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])


def overflows() -> int:
    """Give how often this machine has turned a connection away because a listen queue was full."""
    names, values = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(values[names.index("ListenOverflows")])


class Fleet:
    """The devices' side: edge brokers, and on each a client that publishes faces and hears receipts and bridges."""

    def __init__(self, parts: Pipeline, devices: list[str]) -> None:
        self.clients: dict[str, mqtt.Client] = {}
        self.up: dict[str, float] = {}  # since when, of the bridges that are
        self.sent: dict[str, tuple[str, Properties]] = {}  # by id: device, properties
        self.home: set[str] = set()
        self.ports: list[int] = []
        share = -(-len(devices) // EDGES)
        self.groups = [devices[at : at + share] for at in range(0, len(devices), share)]
        self.parts, self.devices, self.body = parts, devices, picture(0)[:BYTES]

    def start(self) -> None:
        """Start the edge brokers, and listen on each."""
        for number, group in enumerate(self.groups):
            data = self.parts.directory / f"edge{number}"
            self.parts.mosquitto = confs(data / "mosquitto", self.parts.certs, group)
            port = free_port()
            given = {"EDGE_PORT": str(port), "VAR": str(data), "DEVICE": group[0]}
            self.parts.start(f"edge{number}", self.parts.mosquitto / "run-local", "edge", **given)
            self.ports.append(port)
        for port, group in zip(self.ports, self.groups, strict=True):
            eventually(lambda port=port: listening(port), PATIENCE)  # type: ignore[misc]
            client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
            client.max_inflight_messages_set(1000)
            client.on_connect = lambda client, *_: client.subscribe([("status/bridge/+", 1), ("receipts/#", 1)])
            client.on_message = self.heard
            client.connect("localhost", port, keepalive=PATIENCE)
            client.loop_start()
            self.parts.clients.append(client)
            self.clients.update(dict.fromkeys(group, client))

    def heard(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Note a receipt, or the state of a bridge."""
        if message.topic.startswith("receipts/"):
            self.home.add(message.payload.decode())
        elif message.payload == b"1":
            self.up[message.topic.rpartition("/")[2]] = time.monotonic()
        else:
            self.up.pop(message.topic.rpartition("/")[2], None)

    def all_up(self) -> bool:
        """Tell whether every bridge is up."""
        return len(self.up) == len(self.devices)

    def publish(self, stop: threading.Event) -> None:
        """Publish faces at RATE, from one device after the other, until told to stop."""
        began, first = time.monotonic(), len(self.sent)
        while not stop.wait(max(began + (len(self.sent) - first) / RATE - time.monotonic(), 0)):
            device = self.devices[len(self.sent) * 7919 % len(self.devices)]
            words = Properties(PacketTypes.PUBLISH)
            face = f"{len(self.sent):016x}"
            at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            words.UserProperty = [("id", face), ("captured_at", at)]
            self.sent[face] = device, words
            self.clients[device].publish(f"faces/{device}/cam0", self.body, qos=1, properties=words)

    def send_again(self) -> int:
        """Publish what has no receipt once more, as the detectors would; gives how many."""
        missing = [face for face in self.sent if face not in self.home]
        for face in missing:
            device, words = self.sent[face]
            self.clients[device].publish(f"again/{device}/cam0", self.body, qos=1, properties=words)
        return len(missing)


def say(what: str, figures: str) -> None:
    """Print a line at once."""
    print(f"{what:26}{figures}", flush=True)


def of_frames(put_log: str) -> str:
    """Give the quantiles of frame to object in nginx's log."""
    took = delays(put_log)
    cuts = statistics.quantiles([*took, took[-1]], n=100)
    return f"{len(took)} objects, p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, max {max(took):.0f} ms"


def used_by(process: "subprocess.Popen[bytes]", seconds: float) -> float:
    """Wait, and give which part of a core a process has used meanwhile, in %."""
    cpu, began = cpu_of(process.pid), time.monotonic()
    threading.Event().wait(seconds)
    return 100 * (cpu_of(process.pid) - cpu) / (time.monotonic() - began)


def storm(parts: Pipeline, fleet: Fleet, rate: float, peer: float) -> float:
    """Kill the cloud's broker, start it again after OUTAGE, and print how long the bridges take; gives when it was."""
    parts.kill("cloud")
    threading.Event().wait(OUTAGE)
    eventually(lambda: not fleet.up, PATIENCE)
    turned_away = overflows()
    edges = [parts.running[name] for name in parts.running if name.startswith("edge")]
    cpu = sum(cpu_of(edge.pid) for edge in edges)
    parts.cloud()
    back, clock = time.monotonic(), time.time()
    eventually(fleet.all_up, PATIENCE)
    used, cpu = cpu_of(parts.running["cloud"].pid), sum(cpu_of(edge.pid) for edge in edges) - cpu
    took = sorted(at - back for at in fleet.up.values())
    count = len(took)
    say(
        f"killed, back after {OUTAGE} s",
        f"all {count} bridges {took[-1]:.1f} s later, half after {took[count // 2]:.1f} s, "
        f"99 % after {took[count * 99 // 100]:.1f} s",
    )
    say("", f"a full handshake each would take openssl {count / rate:.1f} s: {took[-1] * rate / count:.1f} times that")
    say(
        "",
        f"CPU a bridge: cloud broker {1000 * used / count:.1f} ms, {1000 * used / count / peer:.1f} of openssl's; "
        f"edges {1000 * cpu / count:.1f} ms; listen queue full {overflows() - turned_away} times",
    )
    return clock


def main() -> None:
    """Print each figure when it is there."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    certs, devices = directory / "certs", [f"device-{number:04d}" for number in range(FLEET)]
    make_certs(certs, "server", "sink")
    make_many_certs(certs, devices + ["cloud-broker"] * (KEYS == "rsa"))
    parts = Pipeline(directory, certs)
    parts.mosquitto = confs(directory / "mosquitto", certs, [])
    fleet, stop = Fleet(parts, devices), threading.Event()
    publisher = threading.Thread(target=fleet.publish, args=[stop])
    try:
        rate, peer = handshakes(certs, devices[0], "-new")
        again, cheap = handshakes(certs, devices[0], "-reuse")
        say(
            "openssl, mutual TLS 1.3",
            f"{rate:.0f}/s, {peer:.2f} ms CPU of the server each; resumed {again:.0f}/s, {cheap:.2f} ms",
        )
        url = start_nginx(parts)
        parts.cloud()
        parts.sink(AWS_ENDPOINT_URL_S3=url)
        eventually(lambda: "connected:" in parts.log("s3sink"))
        cloud = parts.running["cloud"]
        before = resident(cloud.pid)
        began = time.monotonic()
        fleet.start()
        eventually(fleet.all_up, PATIENCE)
        say("all connected", f"{FLEET} bridges from {EDGES} brokers in {time.monotonic() - began:.1f} s")
        say("memory", f"{(resident(cloud.pid) - before) / FLEET:.0f} kB a bridge in the cloud's broker")
        say("idle", f"cloud broker {used_by(cloud, SECONDS):.1f} % of a core")
        publisher.start()
        say("faces", f"{RATE}/s of {BYTES} bytes: cloud broker {used_by(cloud, SECONDS):.1f} % of a core")
        quiet = (directory / "put.log").read_text()
        say("frame to object", of_frames(quiet))
        back = storm(parts, fleet, rate, peer)

        def since() -> list[str]:
            lines = (directory / "put.log").read_text()[len(quiet) :].splitlines()
            return [line for line in lines if float(line.split()[0]) > back]

        eventually(since, PATIENCE)
        say("", f"first object {float(since()[0].split()[0]) - back:.1f} s after the broker: the sink is back")
        stop.set()
        publisher.join()
        deadline = time.monotonic() + SECONDS
        eventually(lambda: len(fleet.home) == len(fleet.sent) or time.monotonic() > deadline, PATIENCE)
        say("frame to object", of_frames("\n".join(since())))
        count = fleet.send_again()
        eventually(lambda: len(fleet.home) == len(fleet.sent), PATIENCE)
        stored = {*re.findall(r"Z-(\w{16})\.jpg", (directory / "put.log").read_text())}
        say("home", f"{len(fleet.sent)} faces, {len(stored & set(fleet.sent))} stored, {count} of them sent again")
    finally:
        stop.set()
        parts.end()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
