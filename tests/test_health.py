"""Does a service go on when its log, its certificates or its messages are bad, and end when it must?"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from service import Pulse, log
from tests.pipeline import ROOT, Pipeline, eventually, make_certs

ENDS = "import threading, time, service; stop = service.start(); "


def run(code: str, stdout: IO[str] | int | None = None, timeout: float = 30) -> int:
    """Run a program that imports service.py, and give its exit status."""
    return subprocess.run(
        [sys.executable, "-c", ENDS + code], cwd=ROOT, stdout=stdout, check=False, timeout=timeout
    ).returncode


def test_a_log_that_cannot_be_written_stops_nothing(pipeline: Pipeline) -> None:
    pipeline.edge()
    heard = pipeline.listen("status/logger/#", pipeline.edge_port)
    client = pipeline.client(pipeline.edge_port)
    env = {**pipeline.env, "MQTT_PORT": str(pipeline.edge_port)}
    closed = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    closed.wait()
    with Path("/dev/full").open("w") as full:
        for name, stdout in (("full", full), ("closed", closed.stdin)):
            pipeline.running[name] = subprocess.Popen(
                [sys.executable, "-m", "logger"], cwd=ROOT, stdout=stdout, env={**env, "MQTT_CLIENT_ID": name}
            )

    def said(name: str, word: bytes) -> bool:
        return any(name in message.topic and word in message.payload for message in heard)

    eventually(lambda: said("full", b"up") and said("closed", b"up"))
    pipeline.publish(client, "faces/cam0", b"x")
    eventually(lambda: said("full", b'"faces": 1') and said("closed", b'"faces": 1'))


def test_a_failed_thread_ends_the_process_even_if_nothing_can_be_said() -> None:
    dies = "threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)"
    with Path("/dev/full").open("w") as full:
        assert run(dies, full) == 70
        assert run("threading.Thread(target=lambda: time.sleep(60)).start(); 1 / 0", full) == 70
    reader, writer = os.pipe()  # full, and nobody reads: the line cannot even be begun
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    assert run(dies, writer) == -signal.SIGALRM
    os.close(reader)
    os.close(writer)


def test_a_signal_cannot_dead_lock_with_the_thread_that_it_interrupts() -> None:
    # `wait` holds this lock for a moment at each call; here the signal comes in just that moment
    holds = "import os\nwith stop._cond:\n    os.kill(os.getpid(), 15)\n    time.sleep(0.2)\nstop.wait()"
    assert run("\n" + holds) == 0


def test_a_stuck_part_stops_the_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = tmp_path / "heartbeat"
    monkeypatch.setenv("HEARTBEAT", str(heartbeat))
    pulse = Pulse("network", "camera")
    pulse.heard["camera"] -= 61
    pulse.beat("network")
    assert pulse.stuck() == "camera"
    assert not heartbeat.exists()
    pulse.beat("camera")
    assert not pulse.stuck()
    assert heartbeat.exists()


def test_the_heart_beats_whatever_the_status_interval_is(pipeline: Pipeline) -> None:
    heartbeat = pipeline.directory / "heartbeat"
    pipeline.edge()
    pipeline.logger(STATUS_INTERVAL="3600", HEARTBEAT=str(heartbeat))
    eventually(lambda: "connected:" in pipeline.log("logger"))
    for _ in range(2):
        time.sleep(1.1)  # what the connect itself touched is over
        heartbeat.unlink(missing_ok=True)
        eventually(heartbeat.exists)


def test_a_stop_reaches_the_broker_also_while_messages_come_in(pipeline: Pipeline) -> None:
    pipeline.edge()
    heard = pipeline.listen("status/logger/#", pipeline.edge_port)
    client = pipeline.client(pipeline.edge_port)
    for _ in range(4):
        heard.clear()
        pipeline.logger()
        eventually(lambda: any(b'"up"' in m.payload for m in heard))
        for _ in range(300):
            client.publish("faces/cam0", bytes(100_000), qos=1)
        assert pipeline.stop("logger") == 0
        eventually(lambda: b"down" in heard[-1].payload)
        assert b'"at"' in heard[-1].payload, "that is the last will"
        eventually(lambda: not client.want_write())


def test_certificates_are_read_again_at_the_next_connect(pipeline: Pipeline, tmp_path: Path) -> None:
    make_certs(tmp_path / "other", "server", "sink")
    certs = tmp_path / "mounted"
    shutil.copytree(tmp_path / "other/s3sink", certs)
    pipeline.cloud()
    pipeline.sink(MQTT_CERTS=str(certs))
    eventually(lambda: "certificate verify failed" in pipeline.log("s3sink"))
    shutil.copytree(pipeline.certs / "s3sink", certs, dirs_exist_ok=True)
    eventually(lambda: "connected:" in pipeline.log("s3sink"))


def test_a_message_that_paho_cannot_take_does_not_end_the_sink_for_ever(pipeline: Pipeline) -> None:
    pipeline.s3_server()
    pipeline.cloud()
    pipeline.sink()
    eventually(lambda: "connected:" in pipeline.log("s3sink"))
    device = pipeline.client(pipeline.cloud_port, "jetson-01")
    poison = Properties(PacketTypes.PUBLISH)
    poison.UserProperty = ("id", "\ufeff")
    device.publish("faces/jetson-01/cam0", b"x", qos=1, properties=poison)
    eventually(lambda: "SESSION GIVEN UP" in pipeline.log("s3sink"))
    assert pipeline.log("s3sink").count("Protocol error") == 3
    pipeline.publish(device, "faces/jetson-01/cam0", b"no image")
    eventually(lambda: pipeline.bucket_keys("rejected/"))


def test_the_broker_keeps_nothing_for_a_logger_that_is_away(pipeline: Pipeline) -> None:
    pipeline.edge()
    pipeline.logger()
    eventually(lambda: "connected:" in pipeline.log("logger"))
    pipeline.kill("logger")
    flags: list[Any] = []
    again = mqtt.Client(CallbackAPIVersion.VERSION2, "logger", protocol=mqtt.MQTTv5)
    again.on_connect = lambda *args: flags.append(args[2])
    again.connect("localhost", pipeline.edge_port, clean_start=False)
    again.loop_start()
    assert not eventually(lambda: flags)[0].session_present
    again.loop_stop()


def test_log_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    log("event", value=mqtt.MQTTMessage())
