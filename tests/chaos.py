"""Is a face that was cut out in the bucket, exactly once and byte for byte, whatever died on the way?

`make chaos`, or `python -m tests.chaos`: the shipped pipeline under a seeded storm of faults, then the proof.
SEED= replays a storm, FACES= (2000) says how many faces at least, RECEIPTS=off shows that the proof can fail;
FAULTS=wiped blows only those whose name has that word (a regular expression).

What the detector cut is known exactly, and without a change to it: a trigger in its spool's database notes
each face in the transaction that adds it.
"""

import json
import os
import random
import re
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from skimage import data

from detector.spool import Spool
from tests.faults import FaultyS3, Wan
from tests.pipeline import DEVICE, ROOT, Pipeline, eventually, make_certs
from tests.poison import poison, send

NOTE_WHAT_WAS_CUT = """
CREATE TABLE cut (id TEXT PRIMARY KEY, payload BLOB NOT NULL);
CREATE TRIGGER note_cut AFTER INSERT ON faces BEGIN INSERT INTO cut VALUES (new.id, new.payload); END;
"""
QUEUE = 300_000  # bytes of the edge broker's queue: a few seconds of faces, so that an outage is longer than that
BOUND = 60  # s within which a face of one device is stored while another misbehaves, and no service may say up
MOST_SENDINGS = 3.0  # of a face, in the mean over the storm
HEALING = 300  # s within which everything must be home once nothing is broken any more


def make_frames(folder: Path, count: int, chance: random.Random) -> None:
    """Write pictures with four faces each, every one a little different."""
    folder.mkdir()
    rgb: np.ndarray = data.astronaut()
    head = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)[0:200, 120:320]
    for number in range(count):
        frame = np.full((480, 640, 3), chance.randrange(60, 200), np.uint8)
        for left, top in ((20, 20), (420, 20), (20, 260), (420, 260)):
            x, y = left + chance.randrange(-15, 15), top + chance.randrange(-15, 15)
            frame[y : y + 200, x : x + 200] = cv2.convertScaleAbs(head, alpha=chance.uniform(0.8, 1.1))
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), frame)


def expire(certs: Path, party: str) -> None:
    """Put a certificate in the place of a party's that ended yesterday, of the same CA and for the same key."""
    old = x509.load_pem_x509_certificate((certs / party / "tls.crt").read_bytes())
    ca = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    key = load_pem_private_key((certs / "ca.key").read_bytes(), None)
    now = datetime.now(timezone.utc)
    expired = (
        x509.CertificateBuilder(ca.subject, old.subject, old.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    (certs / party / "tls.crt").write_bytes(expired.public_bytes(Encoding.PEM))


def answers(port: int, certs: Path | None) -> bool:
    """Tell whether a broker answers a CONNECT within 5 s; over TLS with the certificate in `certs`."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            context = ssl.create_default_context(cafile=str(certs / "ca.crt")) if certs else None
            if context and certs:
                context.load_cert_chain(certs / "tls.crt", certs / "tls.key")
            link = context.wrap_socket(plain, server_hostname="localhost") if context else plain
            link.sendall(b"\x10\x11\0\4MQTT\5\2\0\5\0\0\4live")
            return link.recv(1) == b"\x20"  # CONNACK
    except OSError:
        return False


class Storm:
    """The pipeline, with a WAN and an S3 that can fail; a method is one fault, from breaking to mending."""

    def __init__(self, parts: Pipeline, seed: int, receipts: str) -> None:
        self.parts = parts
        self.chance = random.Random(seed)
        self.receipts = receipts
        self.injected: Counter[str] = Counter()
        self.probe_at = time.monotonic() + 5
        self.spool = parts.directory / "spool" / "cam0.db"
        Spool(self.spool, 2**30).db.close()
        with closing(sqlite3.connect(self.spool)) as db:
            db.executescript(NOTE_WHAT_WAS_CUT)
        self.frames = parts.directory / "frames"
        make_frames(self.frames, 100, self.chance)
        parts.mosquitto = parts.directory / "mosquitto"
        shutil.copytree(ROOT / "mosquitto", parts.mosquitto)
        conf = parts.mosquitto / "edge/mosquitto.conf"
        conf.write_text(re.sub(r"(?m)^max_queued_bytes .*", f"max_queued_bytes {QUEUE}", conf.read_text()))
        self.clock = parts.directory / "clock"
        self.clock.write_text("0")
        parts.s3_server()
        self.wan, self.s3 = Wan(parts.cloud_port), FaultyS3(parts.s3_port)
        self.start: dict[str, Callable[[], None]] = {
            "cloud": parts.cloud,
            "edge": lambda: parts.edge(CLOUD_ADDRESS=f"localhost:{self.wan.port}"),
            "s3sink": lambda: parts.sink(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{self.s3.port}"),
            "logger": parts.logger,
            "detector": self.start_detector,
        }
        for start in self.start.values():
            start()
        self.said = parts.listen("status/s3sink/#", parts.sink_port, "operator")
        self.second = parts.client(parts.cloud_port, "jetson-02")
        # one object that the bucket does not take, though it takes all others
        self.s3.refuses["jetson-02/refused"] = "InvalidArgument"

    def start_detector(self, camera: Path | None = None) -> None:
        """Send every detection, through a small spool: a folder waits at its bound, so cutting goes on."""
        options = {"FACE_INTERVAL": "0", "SPOOL_MAX_BYTES": "3000000", "RESEND_AFTER": "2"}
        options |= {"PYTHONPATH": str(ROOT / "tests/clock"), "CLOCK_OFFSET": str(self.clock)}
        self.parts.detector(camera or self.frames, RECEIPTS=self.receipts, **options)

    def pause(self, least: float, most: float) -> None:
        """Let the storm blow for a while; a detector whose folder has ended begins anew."""
        until = time.monotonic() + self.chance.uniform(least, most)
        while time.monotonic() < until:
            ended = self.parts.running["detector"].poll()
            assert not ended, f"the detector ended with {ended}"
            if ended == 0:
                self.start_detector()
            if time.monotonic() > self.probe_at:
                self.revive()
                self.probe_at = time.monotonic() + 5
            time.sleep(0.05)

    def revive(self) -> None:
        """Start a broker anew that runs and does not answer, as the liveness probe of Kubernetes does.

        Mosquitto 2.0.11 (Debian 12) can spin for ever in keepalive__check after a half-open link.
        """
        for name, port, party in (("edge", self.parts.edge_port, ""), ("cloud", self.parts.sink_port, "operator")):
            if not answers(port, self.parts.certs / party if party else None):
                print(f"{self.cut_faces():6} faces, {name} broker hangs: kill -9", flush=True)
                self.injected[f"{name} broker hung by itself"] += 1
                self.parts.kill(name)
                self.start[name]()

    def kill(self, name: str) -> None:
        """Kill -9, and start it again a little later."""
        self.parts.kill(name)
        time.sleep(self.chance.uniform(0.1, 2))
        self.start[name]()

    def cut_wan(self, state: str, least: float, most: float) -> None:
        """Cut the network, so that both sides know (cut) or neither does (hole)."""
        self.wan.state = state
        self.pause(least, most)
        if state == "hole":
            # what was half-open never comes back to life
            self.wan.state = "cut"
            time.sleep(0.2)
        self.wan.state = "up"

    def break_s3(self, fault: str, least: float, most: float) -> None:
        """Have S3 refuse, or hang."""
        self.s3.fault = fault
        self.pause(least, most)
        self.s3.heal()

    def slow_wan(self) -> None:
        """Let 200 kB/s through, less than is cut."""
        self.wan.rate = 200_000
        self.pause(5, 15)
        self.wan.rate = 0

    def fill_log_disk(self) -> None:
        """Have the sink write its log to a full disk; it goes on, and so must the faces."""
        self.parts.kill("s3sink")
        log = self.parts.log_path("s3sink")
        kept = log.rename(log.with_suffix(".before"))
        log.symlink_to("/dev/full")
        try:
            self.start["s3sink"]()
            self.await_a_new_face()
        finally:
            # whatever happens: who reads /dev/full as a log never comes to its end
            self.parts.kill("s3sink")
            log.unlink()
            kept.rename(log)
        self.start["s3sink"]()

    def misbehave(self) -> None:
        """Have the second device send all kinds of poison; the first one's faces must go on."""
        for message in poison():
            send(self.second, "jetson-02", message)
        self.await_a_new_face()

    def flap(self) -> None:
        """Kill the sink again and again, soon after it has connected."""
        for _ in range(4):
            self.kill("s3sink")
            self.pause(0.5, 2)

    def let_expire(self) -> None:
        """Have the sink's certificate end, and renew it by the shipped script a little later."""
        expire(self.parts.certs, "s3sink")
        self.parts.kill("s3sink")
        self.start["s3sink"]()
        self.pause(3, 8)
        make_certs(self.parts.certs, "sink")
        self.await_a_new_face()

    def forget_logger(self) -> None:
        """Have the logger go away without a word, for a while."""
        self.parts.kill("logger")
        self.pause(3, 8)
        self.start["logger"]()

    def jump(self) -> None:
        """Set the edge's clock by up to an hour, forwards or back."""
        self.clock.write_text(f"{self.chance.uniform(-3600, 3600):+.0f}")
        self.pause(1, 4)

    def await_a_new_face(self) -> None:
        """Wait until a face of the first device that is cut from now on is stored; no longer than BOUND s."""
        before = set(self.parts.bucket_keys(f"faces/{DEVICE}/"))
        # by its log: the spool is the detector's alone while that runs
        known = set(re.findall(r"^face: id=(\w+)", self.parts.log("detector"), re.MULTILINE))

        def stored() -> bool:
            self.pause(0.5, 0.5)
            new = set(self.parts.bucket_keys(f"faces/{DEVICE}/")) - before
            return any(key[-20:-4] not in known for key in new)

        eventually(stored, BOUND)

    def said_up_while_stuck(self) -> float:
        """Give for how long, in s, the sink said up at most while it had faces and none of them came to an end."""
        longest, since, ended = 0.0, 0.0, -1
        for message in self.said:
            said = json.loads(message.payload)
            now = sum(said.get(name, 0) for name in ("stored", "rejected", "refused"))
            if said["state"] != "up" or now != ended or not said.get("taken"):
                since, ended = message.timestamp, now
            longest = max(longest, message.timestamp - since)
        return longest

    def wipe(self, name: str) -> None:
        """Lose a broker's disk while messages wait on it."""
        self.wan.state = "cut" if name == "edge" else "up"
        self.s3.fault = "SlowDown" if name == "cloud" else ""
        self.pause(2, 3)
        self.parts.kill(name)
        shutil.rmtree(self.parts.directory / name)
        self.start[name]()
        self.wan.state = "up"
        self.s3.heal()

    def cut_faces(self) -> int:
        """Count the faces that the detector has cut so far, from its log."""
        return self.parts.log("detector").count("face: id=")

    def blow(self, faces: int) -> None:
        """Inject every fault at least once, in random order, and go on until there are enough faces."""
        faults: dict[str, Callable[[], None]] = {
            "kill -9 detector": lambda: self.kill("detector"),
            "kill -9 edge broker": lambda: self.kill("edge"),
            "kill -9 cloud broker": lambda: self.kill("cloud"),
            "kill -9 s3sink": lambda: self.kill("s3sink"),
            "WAN cut": lambda: self.cut_wan("cut", 1, 4),
            "WAN half-open": lambda: self.cut_wan("hole", 2, 18),
            "S3 answers 503": lambda: self.break_s3("SlowDown", 1, 4),
            "S3 hangs": lambda: self.break_s3("hang", 1, 12),
            "WAN away for longer than any queue": lambda: self.cut_wan("cut", 15, 25),
            "WAN slow": self.slow_wan,
            "log disk of the sink full": self.fill_log_disk,
            "poison from another device": self.misbehave,
            "sink flaps": self.flap,
            "certificate expired, and renewed": self.let_expire,
            "logger gone": self.forget_logger,
            "clock of the edge jumps": self.jump,
        }
        once = {"edge broker's disk wiped": "edge", "cloud broker's disk wiped": "cloud"}
        plan = [name for name in (*faults, *once) if re.search(os.environ.get("FAULTS", ""), name)]
        assert plan, f"no fault has FAULTS={os.environ['FAULTS']} in its name: {', '.join([*faults, *once])}"
        more = [name for name in plan if name in faults] or plan.copy()
        self.chance.shuffle(plan)
        while plan or self.cut_faces() < faces:
            fault = plan.pop() if plan else self.chance.choice(more)
            print(f"{self.cut_faces():6} faces, {fault}", flush=True)
            self.injected[fault] += 1
            faults[fault]() if fault in faults else self.wipe(once[fault])
            self.pause(0.5, 5)

    def calm(self) -> float:
        """End the camera, and wait until everything is home; gives how long that took, in s."""
        nothing = self.parts.directory / "nothing"
        nothing.mkdir()
        cv2.imwrite(str(nothing / "gray.png"), np.full((100, 100, 3), 128, np.uint8))
        self.parts.kill("detector")
        began = time.monotonic()
        self.start_detector(nothing)
        try:
            self.pause_until_done()
            if self.receipts == "off":
                # nobody knows when the last one has arrived: wait until no more come
                eventually(lambda: self.quiet_for(10), HEALING)
        finally:
            self.wan.close()
            self.s3.close()
        return time.monotonic() - began

    def pause_until_done(self) -> None:
        """Wait until the detector has every receipt and ends; raises AssertionError when it does not."""
        give_up = time.monotonic() + HEALING
        while self.parts.running["detector"].poll() is None:
            assert time.monotonic() < give_up, f"not all is home after {HEALING} s"
            self.revive()
            time.sleep(1)

    def quiet_for(self, seconds: float) -> bool:
        """Tell whether the sink has stored nothing for a while."""
        return time.time() - self.parts.log_path("s3sink").stat().st_mtime > seconds


def verdict(storm: Storm, recovery: float) -> int:
    """Compare what was cut with what is stored, print the table, give how many lines of it are wrong."""
    with closing(sqlite3.connect(storm.spool)) as db:
        cut = dict(db.execute("SELECT id, payload FROM cut"))
        waiting = db.execute("SELECT count(*) FROM faces").fetchone()[0]
    stored = [(metadata["id"], body) for _, body, metadata in storm.parts.objects(f"faces/{DEVICE}/")]
    said = re.findall(r"^sending again: faces=(\d+)", storm.parts.log("detector"), re.M)
    again = sum(map(int, said))
    lost = set(cut) - {id_ for id_, _ in stored}
    rows = {
        **{f"injected: {fault}": times for fault, times in sorted(storm.injected.items())},
        "faces cut": len(cut),
        "objects in the bucket": len(stored),
        "lost": len(lost),
        "stored twice under two keys": len(stored) - len({id_ for id_, _ in stored}),
        "in the bucket and never cut": len({id_ for id_, _ in stored} - set(cut)),
        "bytes differ": sum(id_ in cut and body != cut[id_] for id_, body in stored),
        "rejected": len(storm.parts.bucket_keys(f"rejected/{DEVICE}/")),
        "without a receipt": waiting,
        "s that the sink said up while stuck": max(round(storm.said_up_while_stuck()) - BOUND, 0),
        "sendings a face, over the most": max(round((len(cut) + again) / len(cut) - MOST_SENDINGS, 1), 0),
    }
    print("\n".join(f"{name:40}{value:8}" for name, value in rows.items()))
    print(f"{'sendings a face':40}{(len(cut) + again) / len(cut):8.2f}")
    print(f"{'sent again by the detector':40}{again:8}")
    print(f"{'seconds until all was home':40}{recovery:8.1f}")
    return sum(value > 0 for name, value in rows.items() if not name.startswith(("injected", "faces", "objects")))


def main() -> int:
    """Run a storm, and give the exit status: 0 only when nothing is lost."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    faces = int(os.environ.get("FACES") or 2000)
    receipts = os.environ.get("RECEIPTS") or "on"
    print(f"seed {seed}: SEED={seed} replays it")
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    make_certs(directory / "certs", "server", "sink", "operator", "device jetson-01", "device jetson-02")
    parts = Pipeline(directory, directory / "certs")
    try:
        storm = Storm(parts, seed, receipts)
        storm.blow(faces)
        wrong = verdict(storm, storm.calm())
    except BaseException:
        parts.close()  # prints the logs
        raise
    parts.end()
    print(f"seed {seed}:", f"LOST OR WRONG, see above; logs in {directory}" if wrong else "nothing is lost")
    if not wrong:
        shutil.rmtree(directory)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
