"""Are certificates made once, renewed when it is time, revoked for good, and never by two at once?"""

import os
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.pipeline import ROOT, Pipeline, make_certs
from tests.test_security import refused


def subject_names(certificate: Path) -> str:
    """Give the names that a certificate is for."""
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    make_certs(tmp_path, "server", "device jetson-01", "sink")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    make_certs(tmp_path, "server", "device jetson-01", "sink")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / ".lock").exists()


def test_another_name_of_the_server_makes_another_certificate_of_the_same_ca(tmp_path: Path) -> None:
    make_certs(tmp_path, "server")
    ca = (tmp_path / "ca.crt").read_bytes()
    make_certs(tmp_path, "server vm.example.com 192.0.2.7")
    names = subject_names(tmp_path / "cloud-broker/tls.crt")
    for name in ("DNS:cloud-broker", "DNS:localhost", "DNS:vm.example.com", "IP Address:192.0.2.7"):
        assert name in names
    assert (tmp_path / "ca.crt").read_bytes() == ca


def test_one_that_runs_out_soon_is_made_anew(tmp_path: Path) -> None:
    env = {**os.environ, "CERTS": str(tmp_path), "DAYS": "29"}
    subprocess.run([ROOT / "mosquitto/certs", "sink"], env=env, check=True)
    old = (tmp_path / "s3sink/tls.crt").read_bytes()
    make_certs(tmp_path, "sink")
    new = (tmp_path / "s3sink/tls.crt").read_bytes()
    assert new != old
    make_certs(tmp_path, "sink")
    assert (tmp_path / "s3sink/tls.crt").read_bytes() == new


def test_several_at_once_use_one_ca(tmp_path: Path) -> None:
    env = {**os.environ, "CERTS": str(tmp_path)}
    script = str(ROOT / "mosquitto/certs")
    running = [subprocess.Popen([script, "device", f"jetson-{n:02}"], env=env) for n in range(5)]
    assert [process.wait(60) for process in running] == [0] * 5
    for n in range(5):
        made = tmp_path / f"jetson-{n:02}"
        command = ["openssl", "verify", "-CAfile", str(made / "ca.crt"), str(made / "tls.crt")]
        subprocess.run(command, check=True)


def test_where_the_ca_s_key_is_not_no_certificate_is_made(tmp_path: Path) -> None:
    make_certs(tmp_path, "device jetson-01")
    (tmp_path / "ca.key").unlink()
    make_certs(tmp_path, "device jetson-01")
    env = {**os.environ, "CERTS": str(tmp_path)}
    command = [str(ROOT / "mosquitto/certs"), "device", "jetson-02"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "ca.key is not here" in ended.stderr


def certs(directory: Path, *words: str, status: int = 0, soon: bool = False) -> str:
    """Run the script, with an ACL beside the certificates; gives what it said.

    `soon`: a certificate of 825 days, which is what is made otherwise, ends soon, and one of 900 days is made.
    """
    env = {"DAYS": "900", "RENEW_BEFORE": "826"} if soon else {}
    acl = directory / "acl"
    if not acl.exists():
        shutil.copy(ROOT / "mosquitto/cloud/acl", acl)
    ended = subprocess.run(
        [ROOT / "mosquitto/certs", *words], env={**os.environ, "CERTS": str(directory), "ACL": str(acl), **env},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def serial(certificate: Path) -> str:
    """Give a certificate's serial number."""
    command = ["openssl", "x509", "-noout", "-serial", "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().partition("=")[2]


def revoked(directory: Path) -> tuple[datetime, datetime, list[str]]:
    """Give from when and to when the broker's list holds, and the serial numbers in it."""
    command = ["openssl", "crl", "-noout", "-text", "-in", str(directory / "cloud-broker/crl.pem")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    words = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    begin, end = (
        datetime.strptime(words[f"{name} Update"], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
        for name in ("Last", "Next")
    )
    return begin, end, [line.split(": ")[1] for line in lines if "Serial Number: " in line]


def test_the_list_of_the_revoked_holds_from_the_start_and_locks_nobody_out(tmp_path: Path) -> None:
    make_certs(tmp_path, "server")
    begin, end, serials = revoked(tmp_path)
    assert serials == []
    now = datetime.now(timezone.utc)
    # a broker whose clock is behind the CA's by hours would shut out everybody, and so would a list that has ended
    assert begin < now - timedelta(hours=12)
    assert end > now + timedelta(days=30_000)


def test_all_certificates_of_a_revoked_name_are_revoked_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    make_certs(tmp_path, "server", "device jetson-01", "device jetson-02", "device jetson-03")
    first = serial(tmp_path / "jetson-02/tls.crt")
    certs(tmp_path, "device", "jetson-02", soon=True)
    both = {first, serial(tmp_path / "jetson-02/tls.crt")}
    assert len(both) == 2
    certs(tmp_path, "revoke", "jetson-02")
    begin, _end, serials = revoked(tmp_path)
    assert set(serials) == both
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before[tmp_path / "acl"].endswith(b"\nuser jetson-02\ntopic deny #\n")
    certs(tmp_path, "revoke", "jetson-02")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    # its folder went to the device
    shutil.rmtree(tmp_path / "jetson-03")
    certs(tmp_path, "revoke", "jetson-03")
    # OpenSSL takes neither of two of the same second for the newer one
    assert revoked(tmp_path)[0] > begin
    assert len(revoked(tmp_path)[2]) == 3


def test_one_made_before_there_was_a_list_is_revoked_too(tmp_path: Path) -> None:
    make_certs(tmp_path, "server", "device jetson-01")
    (tmp_path / "issued").unlink()
    (tmp_path / "crl.pem").unlink()
    certs(tmp_path, "revoke", "jetson-01")
    assert revoked(tmp_path)[2] == [serial(tmp_path / "jetson-01/tls.crt")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jetson-07", "no certificate of that name"),
        ("cloud-broker", "give a device"),
        ("../x", "give"),
        ("jetson.01", "no certificate"),
    ],
)
def test_an_unknown_name_is_not_revoked(tmp_path: Path, name: str, said: str) -> None:
    make_certs(tmp_path, "server", "device jetson-01")
    before = (tmp_path / "crl.pem").read_bytes()
    assert f"'{name}': {said}" in certs(tmp_path, "revoke", name, status=2)
    assert (tmp_path / "crl.pem").read_bytes() == before


def test_a_revoked_device_gets_no_other_certificate_by_that_name(tmp_path: Path) -> None:
    make_certs(tmp_path, "server", "device jetson-01", "sink")
    certs(tmp_path, "revoke", "jetson-01")
    for words in (("device", "jetson-01"), ("renew", "jetson-01", "localhost:8883")):
        assert "give the device another name" in certs(tmp_path, *words, status=2)
    # the names of the cloud's own stand in the ACL
    certs(tmp_path, "revoke", "s3sink")
    assert "made" in certs(tmp_path, "sink")


def test_the_server_s_certificate_is_not_enough_without_the_list(tmp_path: Path) -> None:
    make_certs(tmp_path, "server")
    for path in (tmp_path / "ca.key", tmp_path / "crl.pem", tmp_path / "cloud-broker/crl.pem"):
        path.unlink()
    assert "crl.pem is not here" in certs(tmp_path, "server", status=2)


def test_a_renewed_certificate_takes_the_old_one_s_place_once_the_broker_has_let_it_in(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.certs = tmp_path / "certs"
    pipeline.env["CERTS"] = str(pipeline.certs)
    make_certs(pipeline.certs, "server", "device jetson-01")
    party, broker = pipeline.certs / "jetson-01", f"localhost:{pipeline.cloud_port}"
    old = serial(party / "tls.crt")
    assert "nothing to do" in certs(pipeline.certs, "renew", "jetson-01", broker)
    assert f"{broker} has not let" in certs(pipeline.certs, "renew", "jetson-01", broker, status=2, soon=True)
    new = serial(party / "next/tls.crt")
    assert serial(party / "tls.crt") == old != new
    pipeline.cloud()
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    left: list[object] = []
    device.on_disconnect = lambda *_: left.append(1)
    assert "renewed" in certs(pipeline.certs, "renew", "jetson-01", broker, soon=True)
    assert not left, "the device was thrown out"
    assert serial(party / "tls.crt") == new
    assert not (party / "next").exists()
    assert refused(pipeline, pipeline.certs / "ca.crt", party) == "Success"


def test_a_certificate_that_the_broker_refuses_does_not_take_the_old_one_s_place(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.cloud()
    make_certs(tmp_path / "certs", "device jetson-01")
    party, broker = tmp_path / "certs/jetson-01", f"localhost:{pipeline.cloud_port}"
    old = serial(party / "tls.crt")
    for why in ("verify error", "unknown ca"):
        said = certs(tmp_path / "certs", "renew", "jetson-01", broker, status=2, soon=True)
        assert "the old one stays" in said
        assert why in said
        assert serial(party / "tls.crt") == old
        # now the broker is trusted, and does not trust: by TLS 1.3 that shows only after the handshake
        with (tmp_path / "certs/ca.crt").open("a") as trusted:
            trusted.write((pipeline.certs / "ca.crt").read_text())
