"""Does every mistake get one clear line that names the value and the remedy, and a sensible exit status?"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service import VERSION
from tests.pipeline import ROOT, Pipeline, eventually, free_port, listening, make_certs

Ended = subprocess.CompletedProcess[str]


def run(service: str, **env: str) -> Ended:
    """Run a service to its end; it must end by itself."""
    base = {"PATH": os.environ["PATH"], "S3_BUCKET": "faces", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    return subprocess.run(
        [sys.executable, "-m", service],
        env={**base, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_said(ended: Ended, status: int, *lines: str) -> None:
    """Check exit status and lines; a traceback is never one of them."""
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert ended.returncode == status, said
    for line in lines:
        assert line in said


@pytest.mark.parametrize("service", ["detector", "logger", "s3sink"])
def test_bad_settings_are_all_named_at_once_before_anything_connects(service: str, tmp_path: Path) -> None:
    ended = run(service, MQTT_PORT="http", MQTT_HOST="a b", MQTT_CERTS=str(tmp_path), STATUS_INTERVAL="-1")
    assert_said(
        ended,
        2,
        "MQTT_PORT=http: give a number from 1 to 65535",
        "MQTT_HOST=a b: give a host name or an address",
        f"MQTT_CERTS={tmp_path}: [Errno 2] No such file or directory: '{tmp_path}/ca.crt'; mosquitto/certs",
        "STATUS_INTERVAL=-1: give a number from 0.1 to 3600",
    )
    assert len(ended.stderr.splitlines()) == 4


@pytest.mark.parametrize("program", ["detector", "logger", "s3sink", "s3sink.bucket", "s3sink.view"])
def test_an_argument_that_is_unknown_starts_nothing(program: str) -> None:
    for argument in ("--staus", "--stat", "status", "--help", "--version"):
        command = [sys.executable, "-m", program, argument]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
        known = {"--help": f"-m {program}", "--version": VERSION}
        assert_said(ended, 0 if argument in known else 2, known.get(argument, f"unrecognized arguments: {argument}"))


def test_a_subscription_that_the_broker_refuses_is_said_and_faces_are_cut(
    pipeline: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    plugins = list(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    if not plugins or "PLUGINS" in os.environ:
        pytest.skip("no mosquitto_dynamic_security.so of this Mosquitto, which can refuse a subscription")
    here, port = pipeline.directory, pipeline.edge_port
    access = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    (here / "rules.json").write_text(json.dumps({"defaultACLAccess": access}))
    (here / "conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nplugin {plugins[0]}\n"
        f"plugin_opt_config_file {here}/rules.json\npersistence true\npersistence_location {here}/\nuser root\n"
    )
    pipeline.start("edge", "mosquitto", "-c", here / "conf")
    pipeline.detector(folder_of(1), MQTT_HOST="127.0.0.1", MQTT_PORT=str(port))
    said = f'broker refuses a subscription, see its ACL and MQTT_TOPIC: broker=127.0.0.1:{port} reason="Not authorized"'
    eventually(lambda: said in pipeline.log("detector"))
    eventually(lambda: "face: id=" in pipeline.log("detector"))
    command = [sys.executable, "-m", "logger", "--status"]
    env = {**pipeline.env, "MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(port)}
    table = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_said(table, 69, "the broker refuses status/#: Not authorized; use the operator's certificate")
    # who may look sees it: other rules, and what was retained
    saved = here / "mosquitto.db"

    def is_saved() -> bool:
        pipeline.running["edge"].send_signal(signal.SIGUSR1)  # a stop would send the last wills
        return saved.exists() and b'"refused"' in saved.read_bytes()

    eventually(is_saved)
    pipeline.kill("edge")
    pipeline.kill("detector")
    (here / "rules.json").write_text(json.dumps({"defaultACLAccess": {**access, "subscribe": True}}))
    pipeline.start("edge", "mosquitto", "-c", here / "conf")
    eventually(lambda: listening(port))
    table = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.search(r"detector +cam0 +refused ", table.stdout), table.stdout
    assert table.returncode == 1


def test_a_bridge_certificate_that_is_none_is_refused_and_one_that_goes_bad_is_told(pipeline: Pipeline) -> None:
    cert = pipeline.directory / "tls.crt"
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"):
        cert.write_text(text)
        assert_said(run("logger", BRIDGE_CERT=str(cert)), 2, f"BRIDGE_CERT={cert}: ", "; give the bridge's tls.crt")
    assert_said(run("logger", BRIDGE_CERT="/none"), 2, "BRIDGE_CERT=/none: [Errno 2] No such file or directory")
    cert.write_bytes((pipeline.certs / "jetson-01" / "tls.crt").read_bytes())
    pipeline.edge()
    pipeline.logger(BRIDGE_CERT=str(cert), STATUS_INTERVAL="0.2")
    said = pipeline.listen("status/logger/logger", pipeline.edge_port)
    eventually(lambda: said and b'"certificate_until": "20' in said[-1].payload)
    cert.unlink()  # as a copy that is not made in one step leaves it
    eventually(lambda: b'"certificate_error": "[Errno 2]' in said[-1].payload)
    assert b'"state": "up"' in said[-1].payload


@pytest.mark.parametrize("service", ["detector", "logger", "s3sink"])
@pytest.mark.parametrize("host", ["user:secret@host", "a..b", "h:1883", "mqtt://h", "b" * 64, "x/secret@y"])
def test_a_host_that_is_none_is_refused_and_no_password_printed(service: str, host: str) -> None:
    ended = run(service, MQTT_HOST=host)
    assert_said(ended, 2, "give a host name or an address")
    assert "secret" not in ended.stdout + ended.stderr


def test_the_keys_of_another_and_what_is_no_key_are_one_line(tmp_path: Path) -> None:
    make_certs(tmp_path, "sink", "operator")
    certs = tmp_path / "s3sink"
    (certs / "tls.key").write_bytes((tmp_path / "operator/tls.key").read_bytes())
    assert_said(run("s3sink", MQTT_CERTS=str(certs)), 2, f"MQTT_CERTS={certs}: [X509: KEY_VALUES_MISMATCH]")
    for name in ("tls.key", "tls.crt", "ca.crt"):
        (certs / name).write_text("no PEM")
        ended = run("logger", MQTT_CERTS=str(certs), STATUS_INTERVAL="x")
        assert_said(ended, 2, f"MQTT_CERTS={certs}: [", "STATUS_INTERVAL=x")
        assert len(ended.stderr.splitlines()) == 2


def test_an_env_file_that_is_no_text_is_one_line_and_a_parent_s_is_not_taken(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "logger"]
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / ".env").write_text("MQTT_PORT=http\n", encoding=encoding)
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert_said(ended, 2, ".env: ", "save it as UTF-8")
        assert len(ended.stderr.splitlines()) == 1
    (tmp_path / ".env").write_text("MQTT_PORT=http\n")
    for folder, said in ((tmp_path, "MQTT_PORT=http"), (below, "STATUS_INTERVAL=x")):
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**env, "STATUS_INTERVAL": "x"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert_said(ended, 2, said)
    assert "MQTT_PORT" not in ended.stderr


def test_bad_settings_of_the_detector() -> None:
    bad = {"FACE_FORMAT": "gif", "FACE_QUALITY": "101", "CAMERA_NAME": "a/#", "RECEIPTS": "maybe", "SHOW": "1"}
    lines = [
        "FACE_FORMAT=gif: give jpg or png",
        "FACE_QUALITY=101: give a number from 1 to 100",
        "CAMERA_NAME=a/#: up to 64 letters, digits, dashes",
        "RECEIPTS=maybe: give on or off",
        "SHOW=1: there is no display; set DISPLAY, or SHOW=0",
    ]
    assert_said(run("detector", CAMERA="x", **bad), 2, *lines)


@pytest.mark.parametrize("program", ["s3sink", "s3sink.bucket"])
def test_bad_settings_of_the_sink(program: str) -> None:
    nowhere = {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": ""}
    said = (
        "S3_BUCKET=No_Bucket: give the name of a bucket",
        "AWS_ACCESS_KEY_ID=: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    )
    assert_said(run(program, S3_BUCKET="No_Bucket", **nowhere), 2, *said)
    assert_said(run(program, S3_BUCKET=""), 2, "S3_BUCKET=: give the name of a bucket")


@pytest.mark.parametrize("program", ["s3sink", "s3sink.bucket", "s3sink.view"])
def test_bad_settings_of_the_sdk_are_named_with_all_others_and_no_secret_is(program: str) -> None:
    ended = run(
        program,
        S3_BUCKET="No_Bucket",
        AWS_REGION="eu west",
        AWS_ENDPOINT_URL_S3="me:hidden@minio:9000",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="",
    )
    said = (
        "S3_BUCKET=No_Bucket: give the name of a bucket",
        "AWS_REGION=eu west: give a region, such as eu-central-1",
        "AWS_ENDPOINT_URL_S3=...@minio:9000: give https://HOST, no password",
        "AWS_PROFILE=, AWS_ACCESS_KEY_ID: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY",
    )
    assert_said(ended, 2, *said)
    assert len(ended.stderr.splitlines()) == 4
    assert "hidden" not in ended.stderr


def test_bad_settings_in_the_sdk_s_own_file_are_named(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[profile far]\nregion = eu west\n[profile bare]\nendpoint_url = minio:9000\n")
    for profile, said in (
        ("none", "The config profile (none) could not be found"),
        ("far", "Provided region_name 'eu west' doesn't match"),
        ("bare", "Invalid endpoint: minio:9000"),
    ):
        ended = run("s3sink.bucket", AWS_PROFILE=profile, AWS_CONFIG_FILE=str(config))
        assert_said(ended, 2, f"AWS_PROFILE={profile}, AWS_ACCESS_KEY_ID: {said}")
        assert len(ended.stderr.splitlines()) == 1


def test_an_empty_region_is_none() -> None:
    ended = run("s3sink.bucket", AWS_REGION="", AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{free_port()}")
    assert_said(ended, 1, "S3_BUCKET=faces: EndpointConnectionError: check AWS_ENDPOINT_URL_S3")


def test_cameras_that_are_not_there_or_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "folder").mkdir()
    for camera in ("missing.mp4", "empty.mp4", "text.mp4", "folder"):
        ended = run("detector", CAMERA=str(tmp_path / camera), SPOOL=str(tmp_path / "spool"))
        assert_said(ended, 66, str(tmp_path / camera))
        assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_a_model_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    pointer = tmp_path / "yunet.onnx"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:25a6\nsize 317466\n")
    (tmp_path / "photos").mkdir()
    camera = str(ROOT / "docs")
    ended = run("detector", CAMERA=camera, FACE_MODEL=str(pointer), SPOOL=str(tmp_path / "spool"))
    assert_said(ended, 2, str(pointer))


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = str(tmp_path / "file" / "spool")
    assert_said(run("detector", CAMERA=str(ROOT / "docs"), SPOOL=spool), 74, f"SPOOL={spool}")


def test_a_bucket_that_cannot_be_reached_or_made_is_named() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    ended = run("s3sink.bucket", AWS_ENDPOINT_URL_S3=nobody)
    assert_said(ended, 1, "S3_BUCKET=faces: EndpointConnectionError: check AWS_ENDPOINT_URL_S3")


def test_a_broker_that_is_down_is_waited_for_and_said_at_growing_intervals(pipeline: Pipeline) -> None:
    pipeline.logger()
    eventually(lambda: pipeline.log("logger").count("broker away, trying again:") >= 3)
    assert f"broker=localhost:{pipeline.edge_port}" in pipeline.log("logger")
    assert "Connection refused" in pipeline.log("logger")
    pipeline.edge()
    eventually(lambda: "connected:" in pipeline.log("logger"))
    assert pipeline.log("logger").count("broker away") <= 5
    assert pipeline.stop("logger") == 0


def test_a_server_of_another_name_is_named(pipeline: Pipeline) -> None:
    pipeline.cloud()
    # the certificate is for localhost, 127.0.0.1 and cloud-broker
    pipeline.sink(MQTT_HOST="127.0.0.2", S3_BUCKET="faces")
    eventually(lambda: "broker away" in pipeline.log("s3sink"))
    pipeline.logger(MQTT_CERTS=str(pipeline.certs / "jetson-02"))
    eventually(lambda: "broker away" in pipeline.log("logger"))
    assert "Traceback" not in pipeline.log("s3sink") + pipeline.log("logger")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["mosquitto/certs"], "mosquitto/certs device NAME"),
        (["mosquitto/certs", "device", "../x"], "device name '../x': up to 63 lower-case letters"),
        (["mosquitto/certs", "device", "s3sink"], "device name 's3sink' is taken by a part of the cloud"),
        (["mosquitto/run-local", "middle"], "say which: edge or cloud"),
        (["mosquitto/run-local", "edge"], "no key in '/nonexistent/jetson-01': make it with mosquitto/certs"),
    ],
)
def test_mistakes_with_the_scripts(command: list[str], said: str, tmp_path: Path) -> None:
    certs = "/nonexistent" if "run-local" in command[0] else str(tmp_path)
    env = {**os.environ, "CERTS": certs}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert_said(ended, 2, said)
    assert not list(tmp_path.iterdir())
