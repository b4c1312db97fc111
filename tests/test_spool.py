"""Does the spool keep each face until its receipt, whatever the disk, the broker or a receipt does?"""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from detector.again import WINDOW
from detector.delivery import IN_FLIGHT, Delivery
from detector.spool import Spool, SpoolError

WORDS = {"captured_at": "2026-11-22T10:20:30.456Z"}
OLD_SCHEMA = """
CREATE TABLE faces (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    content_type TEXT NOT NULL, properties TEXT NOT NULL, payload BLOB NOT NULL, bytes INTEGER NOT NULL,
    sent_at REAL,
    resent INTEGER NOT NULL DEFAULT 0);
CREATE INDEX sent ON faces (sent_at, seq);
INSERT INTO faces VALUES (7, '000000000000000a', 'image/png', '{"a": "b"}', x'0102', 2, 5.0, 3);
INSERT INTO faces VALUES (9, '000000000000000b', 'image/png', '{}', x'03', 1, NULL, 0);
DELETE FROM faces WHERE seq=9;
"""


def add(spool: Spool, number: int, size: int = 10) -> str:
    """Put a face into the spool, and give its id."""
    id_ = f"{number:016x}"
    spool.add(id_, "image/jpeg", WORDS, bytes(size))
    return id_


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool for 1000 bytes."""
    return Spool(tmp_path / "spool" / "cam0.db", 1000)


def waiting(spool: Spool) -> list[int]:
    """Give the numbers of the faces that are not home."""
    return [int(face.id, 16) for seq in spool.after(0, 10_000) if (face := spool.get(seq))]


class Broker:
    """The edge's broker, its bridge up: what a delivery of its own takes for paho's client."""

    def __init__(self, spool: Spool, receipts: bool = True, max_packet: int = 0) -> None:
        self.now, self.answers, self.refuses = 100.0, True, False
        self.published: list[tuple[str, bytes]] = []  # topic, and number of the sending
        self.delivery = Delivery(spool, "cam0", receipts, 60, clock=lambda: self.now)
        connack = Properties(PacketTypes.CONNACK)
        if max_packet:
            connack.MaximumPacketSize = max_packet
        self.delivery.connected(self, connack)  # type: ignore[arg-type]
        self.receive("status/bridge", b"1")

    def is_connected(self) -> bool:
        return True

    def publish(self, topic: str, _payload: bytes, qos: int, properties: Any) -> SimpleNamespace:
        assert qos == 1
        self.published.append((topic, properties.CorrelationData))
        if self.answers:
            reason = SimpleNamespace(is_failure=self.refuses)
            self.delivery.on_publish(self, None, len(self.published), reason, None)  # type: ignore[arg-type]
        return SimpleNamespace(mid=len(self.published))

    def subscribe(self, _topic: str, _qos: int) -> None: ...

    def ack(self, _mid: int, _qos: int) -> None: ...

    def receive(self, topic: str, payload: bytes, number: bytes = b"") -> None:
        """Hand a message to the detector as paho does."""
        message = mqtt.MQTTMessage(1, topic.encode())
        message.payload = payload
        message.properties = Properties(PacketTypes.PUBLISH)
        if number:
            message.properties.CorrelationData = number
        self.delivery.on_message(self, None, message)  # type: ignore[arg-type]

    def at(self, now: float) -> list[str]:
        """Let the delivery act, and give the topics that it publishes on."""
        self.now, before = now, len(self.published)
        self.delivery.step(self)  # type: ignore[arg-type]
        return [topic for topic, _ in self.published[before:]]


def test_a_face_survives_kill_9_right_after_it_was_added(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from detector.spool import Spool\n"
        f"Spool(Path({str(tmp_path)!r}, 'a.db'), 1000).add('{7:016x}', 'image/png', {{}}, b'face')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    face = Spool(tmp_path / "a.db", 1000).get(1)
    assert face
    assert (face.id, face.content_type, face.payload) == (f"{7:016x}", "image/png", b"face")


def test_numbers_rise_for_ever_even_after_all_is_home_and_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        spool = Spool(tmp_path / "a.db", 1000)
        id_ = add(spool, number)
        assert spool.after(0, 9) == [number + 1] == [spool.newest]
        assert spool.let_go(id_) == number + 1
        assert (spool.count, spool.bytes) == (0, 0)
        spool.db.close()


def test_a_spool_of_version_0_1_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.executescript(OLD_SCHEMA)
    spool = Spool(tmp_path / "a.db", 1000)
    assert (spool.count, spool.bytes) == (1, 2)
    assert spool.get(7) == ("000000000000000a", "image/png", {"a": "b"}, b"\1\2")
    add(spool, 3)
    assert spool.after(0, 9) == [7, 10]


def test_counting_reads_no_picture_and_no_picture_is_written_again(spool: Spool) -> None:
    plan = spool.db.execute("EXPLAIN QUERY PLAN SELECT count(*), total(bytes) FROM faces").fetchall()
    assert "COVERING INDEX" in plan[0][-1]
    spool.db.execute("CREATE TRIGGER no_update BEFORE UPDATE ON faces BEGIN SELECT RAISE(FAIL, 'update'); END")
    broker = Broker(spool)
    id_ = add(spool, 1)
    assert broker.at(101) == ["faces/cam0"]
    broker.receive("receipts/cam0", id_.encode())
    assert broker.at(102) == []
    assert spool.count == 0


def test_a_picture_that_was_let_go_is_in_no_file_after_the_next_tidying(spool: Spool) -> None:
    spool.add("a" * 16, "image/jpeg", WORDS, b"SECRET" * 2000)
    broker = Broker(spool)
    broker.at(101)
    broker.receive("receipts/cam0", b"a" * 16)
    broker.at(102)
    assert any(b"SECRET" in path.read_bytes() for path in spool.path.parent.iterdir())
    spool.tidy()
    assert not any(b"SECRET" in path.read_bytes() for path in spool.path.parent.iterdir())


def test_beyond_its_bound_the_oldest_go_counted_and_said(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        add(spool, number, size=300)
    assert waiting(spool) == [2, 3, 4]
    assert (spool.count, spool.bytes, spool.dropped) == (3, 900, 2)
    assert capsys.readouterr().out.count("FACE LOST: the spool is full, raise SPOOL_MAX_BYTES") == 2


def test_a_camera_that_can_wait_waits_and_loses_none_of_60_faces_in_one_picture(spool: Spool) -> None:
    def one_comes_home() -> bool:
        face = spool.get(spool.after(0, 1)[0])
        assert face
        spool.let_go(face.id)
        return False

    spool.wait = one_comes_home
    for number in range(60):
        add(spool, number, size=300)
        assert spool.bytes <= 1000
    spool.wait = lambda: True  # SIGTERM meanwhile
    for number in range(60, 65):
        add(spool, number, size=300)
    assert (spool.dropped, spool.count) == (0, 8)


def test_two_detectors_cannot_share_a_spool(spool: Spool) -> None:
    with pytest.raises(SpoolError, match="another detector uses it: give each its own CAMERA_NAME"):
        Spool(spool.path, 1000)


def test_a_file_that_is_no_spool_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SpoolError, match=r"SPOOL=.*a\.db: file is not a database; move the file away"):
        Spool(tmp_path / "a.db", 1000)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"SPOOL=.*give a directory that can be written"):
        Spool(tmp_path / "file" / "a.db", 1000)


def test_a_full_disk_is_an_error_that_a_person_understands(tmp_path: Path) -> None:
    program = (
        "import resource, signal; from pathlib import Path; from detector.spool import Spool, SpoolError\n"
        f"spool = Spool(Path({str(tmp_path)!r}, 'a.db'), 10**9)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n for n in range(100): spool.add(str(n), '', {}, bytes(10_000))\n"
        "except SpoolError as error: print(n, error)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "SPOOL=" in shown.stdout
    assert "free some space" in shown.stdout or "disk I/O error" in shown.stdout
    # and what was added before is still there
    assert Spool(tmp_path / "a.db", 10**9).count == int(shown.stdout.split()[0])


def test_unknown_torn_and_hostile_receipts_change_nothing(spool: Spool) -> None:
    broker = Broker(spool)
    add(spool, 1)
    broker.at(101)
    for payload in (b"", b"f" * 16, b"\xff\xfe", b"' OR 1=1 --", b"0" * 100_000, b"%s\0" % (b"0" * 16)):
        for number in (b"", b"-1", b"1" * 5000, b"\xff", b"9" * 18):
            broker.receive("receipts/cam0", payload, number)
    assert broker.at(102) == []
    assert waiting(spool) == [1]


def test_one_receipt_may_name_several_faces_and_an_older_sink_s_has_no_number(spool: Spool) -> None:
    broker = Broker(spool)
    ids = [add(spool, number) for number in range(3)]
    broker.at(101)
    broker.receive("receipts/cam0", " ".join(ids[:2]).encode())
    broker.at(1000)
    assert waiting(spool) == [2]


def test_an_outage_of_the_sink_repeats_the_oldest_face_ever_more_rarely(spool: Spool) -> None:
    broker = Broker(spool)
    for number in range(5):
        add(spool, number)
    assert broker.at(101) == ["faces/cam0"] * 5
    asked = [now for now in range(102, 102 + 4 * 3600) if broker.at(now)]
    # 60, 120, 240 ... s of silence, an hour at most
    assert [later - first for first, later in pairwise(asked)] == [
        121, 241, 481, 961, 1921, 3601, 3601,
    ]  # fmt: skip


def test_a_face_that_later_ones_overtook_is_sent_again_and_others_are_not(spool: Spool) -> None:
    broker = Broker(spool)
    for now in (101, 150, 200):
        broker.receive("receipts/cam0", b"f" * 16)  # of another: no silence
        add(spool, now)
        assert broker.at(now) == ["faces/cam0"]
    broker.receive("receipts/cam0", f"{200:016x}".encode(), broker.published[-1][1])
    assert broker.at(201) == ["again/cam0"]
    assert broker.delivery.again.sent_again.keys() == {1}


def test_a_receipt_for_a_sending_of_an_earlier_process_overtakes_nothing(spool: Spool) -> None:
    before = Broker(spool)
    add(spool, 1)
    add(spool, 2)
    before.at(1000)
    after = Broker(spool)
    assert after.at(101) == ["again/cam0"] * 2  # a restart knows of no sending
    after.now = 2000
    after.receive("receipts/cam0", f"{2:016x}".encode(), before.published[0][1])
    assert after.at(2000) == []


def test_at_most_a_window_of_faces_is_out_again_and_receipts_open_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.db", 10**9)
    for number in range(100):
        add(spool, number)
    broker = Broker(spool)
    assert len(broker.at(101)) + len(broker.at(102)) + len(broker.at(103)) == WINDOW
    broker.receive("receipts/cam0", f"{0:016x} {1:016x}".encode(), broker.published[0][1])
    assert len(broker.at(104)) == 2


def test_faces_that_were_lost_by_a_full_spool_hold_no_place_in_the_window(spool: Spool) -> None:
    for number in range(1, 4):
        add(spool, number, size=300)
    broker = Broker(spool)
    assert broker.at(101) == ["again/cam0"] * 3
    for number in range(4, 7):
        add(spool, number, size=300)
    broker.receive("receipts/cam0", b"f" * 16)  # of another: no silence
    assert broker.at(200) == ["faces/cam0"] * 3
    broker.receive("receipts/cam0", f"{6:016x}".encode(), broker.published[-1][1])
    assert broker.at(201) == []
    assert not broker.delivery.again.sent_again


def test_no_more_is_handed_to_paho_than_it_sends_and_what_waits_for_long_is_no_news(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.db", 10**9)
    broker = Broker(spool)
    broker.answers = False
    for number in range(100):
        add(spool, number)
    for now in range(101, 115):
        broker.at(now)
    assert [topic for topic, _ in broker.published] == ["faces/cam0"] * IN_FLIGHT
    broker.answers = True
    for mid in range(1, IN_FLIGHT + 1):
        broker.delivery.on_publish(broker, None, mid, SimpleNamespace(is_failure=False), None)  # type: ignore[arg-type]
    assert set(broker.at(116)) == set()  # those were passed over; what was sent before them comes first
    add(spool, 100)
    assert broker.at(117) == ["faces/cam0"]


def test_a_face_that_the_broker_refuses_waits_and_is_said_ever_more_rarely(
    spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = Broker(spool)
    broker.refuses = True
    add(spool, 1)
    sendings = sum(len(broker.at(101 + now / 10)) for now in range(36_000))
    assert sendings <= 7
    assert capsys.readouterr().out.count("broker does not take a face, it waits") <= 3
    broker.refuses = False
    add(spool, 2)
    assert broker.at(3702) == ["faces/cam0"]
    broker.receive("receipts/cam0", f"{2:016x}".encode(), broker.published[-1][1])
    assert "again/cam0" in broker.at(3703)


def test_a_face_larger_than_the_broker_takes_is_not_sent_and_blocks_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(tmp_path / "a.db", 10**9)
    broker = Broker(spool, max_packet=20_000)
    add(spool, 1, size=16_000)
    add(spool, 2, size=15_000)
    assert spool.max_face == 20_000 - 4096
    assert sum(len(broker.at(now)) for now in range(101, 160)) == 1
    assert "16000 bytes, and it takes 15904" in capsys.readouterr().out


def test_without_receipts_a_puback_lets_go_and_a_refusal_does_not(spool: Spool) -> None:
    broker = Broker(spool, receipts=False)
    add(spool, 1)
    assert broker.at(101) == ["faces/cam0"]
    broker.at(102)
    assert spool.count == 0
    broker.refuses = True
    add(spool, 2)
    broker.at(103)
    broker.at(104)
    assert waiting(spool) == [2]
