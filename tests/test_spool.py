"""Does the spool keep each face until its receipt, and send again only what was lost?"""

import signal
import subprocess
import sys
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from detector.delivery import Delivery
from detector.spool import Spool, SpoolError

WORDS = {"captured_at": "2026-11-22T10:20:30.456Z"}
AFTER = 60.0  # s


def add(spool: Spool, number: int, size: int = 10) -> str:
    """Put a face into the spool, and give its id."""
    id_ = f"{number:016x}"
    spool.add(id_, "image/jpeg", WORDS, bytes(size))
    return id_


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool for 1000 bytes."""
    return Spool(tmp_path / "spool" / "cam0.db", 1000)


def sent(spool: Spool, number: int, at: float) -> None:
    """Add a face that the edge's broker took at `at`."""
    add(spool, number)
    spool.sent(spool.unsent([], 1)[0].seq, at)


def receive(delivery: Delivery, topic: str, payload: bytes) -> None:
    """Hand a message to the detector as paho does."""
    message = mqtt.MQTTMessage(1, topic.encode())
    message.payload = payload
    delivery.on_message(mqtt.Client(CallbackAPIVersion.VERSION2), None, message)


def delivery_with_bridge_up(spool: Spool, now: float) -> Delivery:
    """Give the sender of a spool, whose bridge is up and silent since `now`."""
    delivery = Delivery(spool, "cam0", receipts=True, resend_after=AFTER)
    receive(delivery, "status/bridge", b"1")
    delivery.quiet_since = now
    return delivery


def waiting(spool: Spool) -> list[int]:
    """Give the numbers of the faces that are to be sent."""
    return [int(face.id, 16) for face in spool.unsent([], 100)]


def test_a_face_survives_kill_9_right_after_it_was_added(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from detector.spool import Spool\n"
        f"Spool(Path({str(tmp_path)!r}, 'a.db'), 1000).add('{7:016x}', 'image/png', {{}}, b'face')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    (face,) = Spool(tmp_path / "a.db", 1000).unsent([], 10)
    assert (face.id, face.content_type, face.payload) == (f"{7:016x}", "image/png", b"face")


def test_numbers_rise_for_ever_even_after_all_is_home_and_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        spool = Spool(tmp_path / "a.db", 1000)
        id_ = add(spool, number)
        assert spool.unsent([], 1)[0].seq == number + 1
        spool.let_go(id_)
        assert (spool.count, spool.bytes) == (0, 0)
        spool.close()


def test_beyond_its_bound_the_oldest_go_counted_and_said(
    spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        add(spool, number, size=300)
    assert waiting(spool) == [2, 3, 4]
    assert (spool.count, spool.bytes, spool.dropped) == (3, 900, 2)
    assert capsys.readouterr().out.count("FACE LOST: the spool is full, raise SPOOL_MAX_BYTES") == 2


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
    add(spool, 1)
    delivery = delivery_with_bridge_up(spool, 0)
    for payload in (
        b"",
        b"ffffffffffffffff",
        b"\xff\xfe",
        b"' OR 1=1 --",
        b"0" * 100_000,
        b"%s\0" % (b"0" * 16),
    ):
        receive(delivery, "receipts/cam0", payload)
    assert waiting(spool) == [1]


def test_one_receipt_may_name_several_faces(spool: Spool) -> None:
    ids = [add(spool, number) for number in range(3)]
    receive(delivery_with_bridge_up(spool, 0), "receipts/cam0", " ".join(ids[:2]).encode())
    assert waiting(spool) == [2]


def test_nothing_is_sent_again_while_the_bridge_is_down(spool: Spool) -> None:
    sent(spool, 1, at=0)
    delivery = delivery_with_bridge_up(spool, now=0)
    receive(delivery, "status/bridge", b"0")
    delivery.send_again(now=1e6)
    assert waiting(spool) == []


def test_an_outage_of_the_sink_repeats_one_face_and_no_more(spool: Spool) -> None:
    for number in range(5):
        sent(spool, number, at=0)
    delivery = delivery_with_bridge_up(spool, now=0)
    for minute in range(1, 60):
        delivery.send_again(now=61.0 * minute)
        assert waiting(spool) == [0]
        spool.sent(spool.unsent([], 1)[0].seq, 61.0 * minute)


def test_when_the_way_is_open_again_and_silent_all_that_is_not_home_is_sent_again(spool: Spool) -> None:
    for number in range(5):
        sent(spool, number, at=0)
    delivery = delivery_with_bridge_up(spool, now=0)
    delivery.send_again(now=61)
    assert waiting(spool) == [0]
    receive(delivery, "receipts/cam0", f"{0:016x}".encode())
    delivery.quiet_since = 62
    delivery.send_again(now=100)
    assert waiting(spool) == []
    delivery.send_again(now=123)
    assert waiting(spool) == [1, 2, 3, 4]


def test_a_face_that_later_ones_overtook_is_sent_again_in_the_midst_of_traffic(spool: Spool) -> None:
    for number, at in ((1, 0), (2, 50), (3, 100)):
        sent(spool, number, at)
    delivery = delivery_with_bridge_up(spool, now=100)
    receive(delivery, "receipts/cam0", f"{3:016x}".encode())
    delivery.quiet_since = 100
    delivery.send_again(now=101)
    assert waiting(spool) == [1]
    assert delivery.counts["resent"] == 1


def test_the_receipt_of_a_repeated_face_does_not_prove_that_others_were_overtaken(spool: Spool) -> None:
    for number in (1, 2):
        sent(spool, number, at=0)
    spool.send_again(1, limit=1)
    spool.sent(spool.unsent([], 1)[0].seq, 1000)
    delivery = delivery_with_bridge_up(spool, now=1000)
    receive(delivery, "receipts/cam0", f"{1:016x}".encode())
    delivery.quiet_since = 1000
    delivery.send_again(now=1001)
    assert waiting(spool) == []


def test_after_a_restart_what_was_sent_waits_for_its_receipt_again(spool: Spool) -> None:
    sent(spool, 1, at=1e9)  # a clock of before the restart
    spool.close()
    again = Spool(spool.path, 1000)
    assert waiting(again) == []
    delivery = delivery_with_bridge_up(again, now=0)
    delivery.send_again(now=1e7)
    assert waiting(again) == [1]
