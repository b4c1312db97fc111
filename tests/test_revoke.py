"""Is a stolen device shut out at once, its open connection too, while all the others stay connected?"""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import ROOT, Pipeline, eventually, make_certs
from tests.test_security import refused


@pytest.fixture
def fleet(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """The cloud's broker, and the bridge of jetson-01, with certificates and an ACL that a test may change."""
    pipeline.certs = tmp_path / "certs"
    pipeline.env["CERTS"] = str(pipeline.certs)
    pipeline.mosquitto = tmp_path / "mosquitto"
    shutil.copytree(ROOT / "mosquitto", pipeline.mosquitto)
    make_certs(pipeline.certs, "server", "sink", "operator", "device jetson-01", "device jetson-02", "device jetson-03")
    pipeline.cloud()
    pipeline.edge()
    pipeline.await_bridge()
    return pipeline


def certs(fleet: Pipeline, *words: str, status: int = 0) -> str:
    """Run the script beside the fleet's ACL; gives what it said."""
    command: list[str | Path] = [fleet.mosquitto / "certs", *words]
    env = {**os.environ, "CERTS": str(fleet.certs)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def tell_the_broker(fleet: Pipeline) -> None:
    """What cloud/up does to the broker in its container."""
    fleet.running["cloud"].send_signal(signal.SIGHUP)


def connects(fleet: Pipeline) -> dict[str, int]:
    """How often each has connected to the cloud."""
    lines = [line for line in fleet.log("cloud").splitlines() if "New client connected" in line]
    return {name: sum(f" as {name} " in line for line in lines) for name in ("jetson-01", "jetson-02", "jetson-03")}


def not_authorized(fleet: Pipeline, client: Any, name: str) -> bool:
    """Tell whether a device may not write in its own name."""
    return bool(fleet.publish(client, f"faces/{name}/cam0", b"stolen").getName() == "Not authorized")


def test_a_stolen_device_is_shut_out_and_all_others_stay_connected(fleet: Pipeline) -> None:
    faces = fleet.listen("faces/#", fleet.sink_port, "s3sink")
    sink = fleet.client(fleet.sink_port, "s3sink")
    open_ones = {name: fleet.client(fleet.cloud_port, name) for name in ("jetson-02", "jetson-03")}
    receipts: list[Any] = []
    # each is told by itself: the second list, too, must take the place of the one before
    for name, thief in open_ones.items():
        thief.on_message = lambda _client, _data, message: receipts.append(message)
        thief.subscribe(f"receipts/{name}/#", qos=1)
        assert not not_authorized(fleet, thief, name)
        certs(fleet, "revoke", name)
        tell_the_broker(fleet)
        eventually(lambda name=name, thief=thief: not_authorized(fleet, thief, name))  # type: ignore[misc]
        heard = len(faces)
        fleet.publish(sink, f"receipts/{name}/cam0", b"of nobody")
        # what the broker had sent the thief before would come before this PUBACK
        assert not_authorized(fleet, thief, name)
        fleet.publish(fleet.client(fleet.edge_port), "faces/cam0", name.encode())
        eventually(lambda heard=heard: len(faces) > heard)  # type: ignore[misc]
        assert [message.topic for message in faces[heard:]] == ["faces/jetson-01/cam0"]
        assert refused(fleet, fleet.certs / "ca.crt", fleet.certs / name) != "Success"
    assert not receipts
    assert connects(fleet) == {"jetson-01": 1, "jetson-02": 1, "jetson-03": 1}


def test_a_stolen_bridge_brings_nothing_more_and_does_not_come_back(fleet: Pipeline) -> None:
    faces = fleet.listen("faces/#", fleet.sink_port, "s3sink")
    certs(fleet, "revoke", "jetson-01")
    tell_the_broker(fleet)
    other = fleet.client(fleet.cloud_port, "jetson-02")
    fleet.publish(fleet.client(fleet.edge_port), "faces/cam0", b"stolen")
    fleet.stop("edge")
    fleet.edge()
    eventually(lambda: "certificate verify failed" in fleet.log("cloud"))
    fleet.publish(other, "faces/jetson-02/cam0", b"the other's")
    eventually(lambda: faces)
    assert [message.payload for message in faces] == [b"the other's"]


def test_a_tls_session_from_before_is_no_way_in(fleet: Pipeline) -> None:
    party, kept = fleet.certs / "jetson-02", fleet.directory / "session"

    def connect(option: str) -> str:
        command: list[str | Path] = ["openssl", "s_client", "-connect", f"localhost:{fleet.cloud_port}", option, kept]
        command += ["-CAfile", party / "ca.crt", "-cert", party / "tls.crt", "-key", party / "tls.key"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as client:
            assert client.stdout
            said = ""
            for line in client.stdout:
                said += line
                if "New Session Ticket arrived" in line or "alert" in line:
                    break
            client.kill()
        return said

    assert "New Session Ticket arrived" in connect("-sess_out")
    eventually(kept.exists)
    certs(fleet, "revoke", "jetson-02")
    tell_the_broker(fleet)
    eventually(lambda: refused(fleet, fleet.certs / "ca.crt", party) != "Success")
    assert "New Session Ticket arrived" not in connect("-sess_in")


@pytest.mark.parametrize("party", ["s3sink", "operator"])
def test_a_part_of_the_cloud_gets_another_certificate_of_the_same_name(fleet: Pipeline, party: str) -> None:
    stolen = fleet.directory / "stolen"
    shutil.copytree(fleet.certs / party, stolen)
    assert "until the cloud's broker is restarted" in certs(fleet, "revoke", party)
    certs(fleet, "sink" if party == "s3sink" else party)
    fleet.stop("cloud")
    fleet.cloud()
    ca = fleet.certs / "ca.crt"
    assert refused(fleet, ca, stolen) != "Success"
    assert refused(fleet, ca, fleet.certs / party) == "Success"
