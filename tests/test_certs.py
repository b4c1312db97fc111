"""Are certificates made once, renewed when it is time, and never by two at once?"""

import os
import subprocess
from pathlib import Path

from tests.pipeline import ROOT, make_certs


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
