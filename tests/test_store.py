"""Does the sink hold every face, unacknowledged, through whatever the store does, and say what to do?"""

import json
import re
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from s3sink.s3 import REMEDIES, words
from s3sink.store import MAX_DELAY, delay
from tests.bench.latency import peak
from tests.faults import FaultyS3, Wan
from tests.pipeline import Pipeline, eventually
from tests.test_sink import ID, WORDS, picture


@pytest.fixture
def faulty(pipeline: Pipeline) -> Iterator[FaultyS3]:
    """A sink before an S3 that can be made to fail."""
    pipeline.s3_server()
    pipeline.cloud()
    faulty = FaultyS3(pipeline.s3_port)
    pipeline.sink(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{faulty.port}")
    eventually(lambda: "connected:" in pipeline.log("s3sink"))
    yield faulty
    faulty.close()


@pytest.mark.parametrize(
    "fault",
    ["SlowDown", "InternalError", "AccessDenied", "ExpiredToken", "NoSuchBucket", "RequestTimeTooSkewed", "hang"],
)
def test_a_face_is_held_through_every_failure_and_then_stored(pipeline: Pipeline, faulty: FaultyS3, fault: str) -> None:
    receipts = pipeline.listen("receipts/#", pipeline.sink_port, "jetson-01")
    faulty.fault = fault
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    pipeline.publish(device, "faces/jetson-01/cam0", picture(), **WORDS)
    eventually(lambda: faulty.refused >= 2, 60)
    said = "ReadTimeoutError" if fault == "hang" else fault
    eventually(lambda: f"bucket does not take it, holding: error={said}" in pipeline.log("s3sink"))
    if fault in REMEDIES:
        assert REMEDIES[fault] in pipeline.log("s3sink")
    assert not receipts
    faulty.heal()
    eventually(pipeline.bucket_keys)
    assert eventually(lambda: receipts)[0].payload == ID.encode()
    assert not pipeline.bucket_keys("rejected/")
    eventually(lambda: "bucket takes objects again" in pipeline.log("s3sink"))


def test_credentials_that_were_not_renewed_in_time_are_held_for(pipeline: Pipeline, tmp_path: Path) -> None:
    """They come from a file that a timer writes, as cloud/assume-role does."""

    def renew(until: str) -> None:
        keys = {"Version": 1, "AccessKeyId": "x", "SecretAccessKey": "y", "SessionToken": "z", "Expiration": until}
        (tmp_path / "new.json").write_text(json.dumps(keys))
        (tmp_path / "new.json").rename(tmp_path / "credentials.json")

    renew("2020-01-01T00:00:00Z")
    (tmp_path / "config").write_text(f'[default]\ncredential_process = cat "{tmp_path}/credentials.json"\n')
    pipeline.s3_server()
    pipeline.cloud()
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    pipeline.sink(AWS_CONFIG_FILE=str(tmp_path / "config"), **no_keys)
    eventually(lambda: "connected:" in pipeline.log("s3sink"))
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    pipeline.publish(device, "faces/jetson-01/cam0", picture(), **WORDS)
    eventually(lambda: "bucket does not take it, holding: error=RuntimeError" in pipeline.log("s3sink"))
    assert "the refreshed credentials are still expired" in pipeline.log("s3sink")
    renew("2099-01-01T00:00:00Z")
    eventually(pipeline.bucket_keys)


def reconnected(pipeline: Pipeline, connects: int) -> bool:
    """Tell whether the sink has connected more often than that."""
    return pipeline.log("s3sink").count("connected: broker") > connects


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_held_when_the_sink_ended_is_stored_by_the_next(
    pipeline: Pipeline, faulty: FaultyS3, how: signal.Signals
) -> None:
    faulty.fault = "SlowDown"
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(40):
        pipeline.publish(device, f"faces/jetson-01/cam{number}", picture(), **WORDS)
    eventually(lambda: faulty.refused >= 20)
    assert pipeline.stop("s3sink", how) == (0 if how == signal.SIGTERM else -9)
    pipeline.sink()
    eventually(lambda: len(pipeline.bucket_keys()) == 40)


def test_no_more_is_taken_from_the_broker_than_the_window(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.fault = "SlowDown"
    status: list[bytes] = []
    operator = pipeline.client(pipeline.sink_port, "operator")
    operator.on_message = lambda _client, _data, message: status.append(bytes(message.payload))
    operator.subscribe("status/s3sink/s3sink", qos=1)
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(60):
        pipeline.publish(device, f"faces/jetson-01/cam{number}", picture(), **WORDS)
    # 8 uploads try again and again, 24 more messages wait behind them; 28 stay with the broker
    eventually(lambda: status and b'"held": 32' in status[-1])
    assert b'"taken": 32' in status[-1]
    faulty.heal()
    eventually(lambda: len(pipeline.bucket_keys()) == 60)


def test_a_broker_restart_during_a_store_failure_takes_no_more_than_the_window(
    pipeline: Pipeline, faulty: FaultyS3
) -> None:
    faulty.fault = "SlowDown"
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(30):
        pipeline.publish(device, f"faces/jetson-01/cam{number}", picture(), **WORDS)
    for _ in range(3):
        connects = pipeline.log("s3sink").count("connected: broker")
        pipeline.stop("cloud")
        pipeline.cloud()
        eventually(partial(reconnected, pipeline, connects))
    faulty.heal()
    eventually(lambda: len(pipeline.bucket_keys()) == 30)


@pytest.mark.parametrize(
    "code", ["AccessDenied", "NoSuchKey", "InvalidArgument", "EntityTooLarge", "RequestHeaderSectionTooLarge"]
)
def test_a_windowful_that_the_store_refuses_goes_to_rejected_and_holds_nobody(
    pipeline: Pipeline, faulty: FaultyS3, code: str
) -> None:
    faulty.refuses = {"/faces/faces/jetson-01/odd": code}
    receipts = pipeline.listen("receipts/#", pipeline.sink_port, "jetson-01")
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(40):
        pipeline.publish(device, f"faces/jetson-01/odd{number}", picture(), **WORDS)
    pipeline.publish(device, "faces/jetson-01/good", picture(), **WORDS)
    eventually(lambda: pipeline.bucket_keys("faces/jetson-01/good/"), 60)
    eventually(lambda: len(receipts) == 41)
    (_, body, metadata), *others = pipeline.objects("rejected/")
    assert len(others) == 39
    assert body == picture()
    assert metadata["reason"] == f"{code}: injected"


def test_what_is_refused_under_rejected_too_is_let_go_without_a_receipt(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.refuses = {"/odd": "EntityTooLarge"}
    receipts = pipeline.listen("receipts/#", pipeline.sink_port, "jetson-01")
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    pipeline.publish(device, "faces/jetson-01/odd", picture(), **WORDS)
    eventually(lambda: "REFUSED by the bucket" in pipeline.log("s3sink"))
    pipeline.publish(device, "faces/jetson-01/good", picture(), **WORDS)
    assert [message.topic for message in eventually(lambda: receipts)] == ["receipts/jetson-01/good"]
    eventually(lambda: '"refused": 1, "taken": 0' in status(pipeline))


def status(pipeline: Pipeline) -> str:
    """Give what the sink said last."""
    heard = pipeline.listen("status/s3sink/#", pipeline.sink_port, "operator")
    return str(eventually(lambda: heard)[-1].payload.decode())


def test_a_slow_put_holds_back_nobodys_receipt(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.refuses = {"/slow/": "hang"}
    receipts = pipeline.listen("receipts/#", pipeline.sink_port, "jetson-01")
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for name in ("slow", *(f"cam{number}" for number in range(20))):
        pipeline.publish(device, f"faces/jetson-01/{name}", picture(), **WORDS)
    eventually(lambda: len(receipts) == 20, 8)
    faulty.refuses = {}
    faulty.heal()


def test_a_put_of_eleven_seconds_ends(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.delay = 11
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    pipeline.publish(device, "faces/jetson-01/cam0", picture(), **WORDS)
    eventually(lambda: "stored: key=" in pipeline.log("s3sink"), 60)


def test_a_link_too_slow_for_all_at_once_stores_all(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.rate = 200_000  # bytes/s: 8 uploads at once take 24 s each, and a PUT is given 20
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(16):
        device.publish(f"faces/jetson-01/{number}", picture(number) + bytes(300_000), qos=1)
    eventually(lambda: faulty.busiest == 8, 60)
    eventually(lambda: len(pipeline.bucket_keys()) == 16, 200)


def test_the_store_s_words_are_said_without_the_endpoint_s_password() -> None:
    error = EndpointConnectionError(endpoint_url="https://user:secret@store:9000/faces/a")
    assert words(error).endswith('"https://store:9000/faces/a"')


def test_sigterm_ends_in_time_and_cleanly_though_s3_hangs(pipeline: Pipeline, faulty: FaultyS3) -> None:
    faulty.fault = "hang"
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    pipeline.publish(device, "faces/jetson-01/cam0", picture(), **WORDS)
    eventually(lambda: faulty.refused)
    assert pipeline.stop("s3sink") == 0
    assert '"stored": 0' in status(pipeline)  # its own last word, not the last will


def test_the_status_says_holding_with_the_store_s_own_words_and_what_to_do(
    pipeline: Pipeline, faulty: FaultyS3
) -> None:
    said = pipeline.listen("status/s3sink/#", pipeline.sink_port, "operator")
    faulty.fault = "AccessDenied"
    pipeline.publish(pipeline.client(pipeline.cloud_port, "jetson-01"), "faces/jetson-01/cam0", picture(), **WORDS)
    held = eventually(lambda: [json.loads(it.payload) for it in said if b'"holding"' in it.payload])[0]
    assert held["reason"] == "AccessDenied: injected"
    (line,) = re.findall(r".*tries=1 .*", pipeline.log("s3sink"))
    assert "said=injected" in line
    assert f'do="{REMEDIES["AccessDenied"]}"' in line
    faulty.heal()
    eventually(lambda: json.loads(said[-1].payload)["state"] == "up")


def test_connections_that_flap_while_s3_hangs_do_not_pile_up_messages(pipeline: Pipeline) -> None:
    pipeline.s3_server()
    pipeline.cloud()
    faulty, lan = FaultyS3(pipeline.s3_port), Wan(pipeline.sink_port)
    faulty.fault = "hang"
    pipeline.sink(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{faulty.port}", S3_UPLOADS="64", MQTT_PORT=str(lan.port))
    eventually(lambda: "connected:" in pipeline.log("s3sink"))
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    for number in range(300):
        sent = device.publish(f"faces/jetson-01/{number}", picture(number) + bytes(150_000), qos=1)
    sent.wait_for_publish(60)
    said = pipeline.listen("status/s3sink/#", pipeline.sink_port, "operator")

    def taken() -> int:
        return int(json.loads(said[-1].payload).get("taken", 0)) if said else 0

    for flaps in range(10):
        eventually(lambda flaps=flaps: reconnected(pipeline, flaps))  # type: ignore[misc]
        said.clear()
        eventually(lambda: taken() >= 100)
        lan.state = "cut"
        eventually(lambda flaps=flaps: pipeline.log("s3sink").count("disconnected:") > flaps)  # type: ignore[misc]
        lan.state = "up"
    # a window of 100, and what was being sent when its connection was cut
    assert taken() <= 100 + 64
    assert peak(pipeline.running["s3sink"].pid) < 180  # MiB: 124 here, 211 where each flap leaves its window behind
    faulty.heal()
    eventually(lambda: len(pipeline.bucket_keys()) == 300, 120)
    faulty.close()
    lan.close()


def test_back_off_grows_with_jitter_and_is_bounded() -> None:
    rows = [[delay(tries) for tries in (*range(20), 100_000)] for _ in range(3)]
    assert all(0 <= seconds <= MAX_DELAY for row in rows for seconds in row)
    assert max(map(max, rows)) > 4
    assert rows[0] != rows[1]


@pytest.mark.parametrize("wanted", ["environment", "profile", ""])
def test_a_bucket_with_object_lock_gets_the_checksums_it_wants(pipeline: Pipeline, tmp_path: Path, wanted: str) -> None:
    pipeline.s3_server()
    s3 = pipeline.s3
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    s3.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=lock)
    (tmp_path / "config").write_text("[profile locked]\nrequest_checksum_calculation = when_supported\n")
    env = {
        "environment": {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"},
        "profile": {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "locked"},
        "": {},
    }[wanted]
    put = "import s3sink.s3 as it; it.s3_client(1).put_object(Bucket='locked', Key='a', Body=b'x')"
    status = pipeline.start("put", sys.executable, "-c", put, **env).wait(60)
    assert (status == 0) == bool(wanted), pipeline.log("put")
    assert wanted or "Content-MD5 or x-amz-sdk-checksum-algorithm" in pipeline.log("put")
