"""Does one table tell, of a device and of the fleet, what is up, what is down and what is silent?"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from logger.status import status_row, table
from service import VERSION
from tests.pipeline import ROOT, Pipeline, eventually

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


def status(pipeline: Pipeline, port: int, certs: str = "") -> tuple[int, str]:
    """Run `python -m logger --status`, and give its exit status and what it printed."""
    env = {"PATH": os.environ["PATH"], "MQTT_PORT": str(port), "MQTT_CERTS": certs and str(pipeline.certs / certs)}
    command = [sys.executable, "-m", "logger", "--status"]
    ended = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def rows_of(pipeline: Pipeline) -> list[list[str]]:
    """Give the first four columns of the edge's table."""
    return [line.split()[:4] for line in status(pipeline, pipeline.edge_port)[1].splitlines()]


def test_the_edge_shows_its_services_and_the_cloud_the_fleet(
    pipeline: Pipeline, folder_of: Callable[[int], Path]
) -> None:
    pipeline.all_but_detector()
    pipeline.logger()
    assert pipeline.detector(folder_of(2)).wait(60) == 0
    eventually(lambda: status(pipeline, pipeline.edge_port)[0] == 0)
    code, edge = status(pipeline, pipeline.edge_port)
    rows = [line.split()[:4] for line in edge.splitlines()]
    assert rows[1:] == [["-", "bridge", "-", "up"], ["-", "detector", "cam0", "done"], ["-", "logger", "logger", "up"]]
    assert "faces=2" in edge
    assert "oldest_s=0" in edge
    assert code == 0
    eventually(lambda: status(pipeline, pipeline.sink_port, "operator")[1].count("jetson-01") == 2)
    pipeline.kill("logger")
    eventually(lambda: status(pipeline, pipeline.sink_port, "operator")[0] == 1)
    fleet = [line.split()[:4] for line in status(pipeline, pipeline.sink_port, "operator")[1].splitlines()]
    assert fleet[1:] == [
        ["jetson-01", "detector", "cam0", "done"],
        ["jetson-01", "logger", "logger", "down"],
        ["-", "s3sink", "s3sink", "up"],
    ] or fleet[1:] == [
        ["-", "s3sink", "s3sink", "up"],
        ["jetson-01", "detector", "cam0", "done"],
        ["jetson-01", "logger", "logger", "down"],
    ]


def test_a_service_that_is_back_is_up_at_once_not_at_its_next_status(pipeline: Pipeline) -> None:
    pipeline.edge()
    pipeline.logger(STATUS_INTERVAL="3600")
    eventually(lambda: ["-", "logger", "logger", "up"] in rows_of(pipeline))
    pipeline.kill("logger")
    eventually(lambda: ["-", "logger", "logger", "down"] in rows_of(pipeline))
    pipeline.logger(STATUS_INTERVAL="3600")
    eventually(lambda: ["-", "logger", "logger", "up"] in rows_of(pipeline))


def test_no_broker_is_one_line(pipeline: Pipeline) -> None:
    code, said = status(pipeline, pipeline.edge_port)
    assert code == 69
    assert f"MQTT_PORT={pipeline.edge_port}: [Errno" in said
    assert len(said.splitlines()) == 1


def test_a_service_that_has_not_spoken_for_a_minute_is_silent() -> None:
    for second, state in (("59:00", "up"), ("58:00", "silent")):
        payload = b'{"state": "up", "at": "2026-11-22T11:%s+00:00", "faces": 3}' % second.encode()
        row = status_row("status/jetson-01/detector/cam0", payload, NOW)
        assert row[:4] == ("jetson-01", "detector", "cam0", state)
        assert row[5] == "faces=3"
        off = status_row("status/detector/cam0", payload.replace(b'"up"', b'"off"'), NOW)
        assert off[3] == state.replace("up", "off")


def test_a_service_that_speaks_once_an_hour_is_not_silent_for_that() -> None:
    for every, state in (("3600", "up"), ("10", "silent"), ("1e300", "up"), ("NaN", "silent")):
        payload = b'{"state": "up", "at": "2026-11-22T11:00:00+00:00", "every": %s}' % every.encode()
        assert status_row("status/detector/cam0", payload, NOW)[3] == state


def test_what_is_not_well_is_not_called_up() -> None:
    for said, state in (
        ('"state": "up", "camera": "lost"', '"no camera"'),
        ('"state": "up", "held": 3', "holding"),
        ('"state": "stuck"', "stuck"),
        ('"state": "up", "camera": "up", "held": 0', "up"),
        ('"state": "off", "camera": "closed"', "off"),
    ):
        payload = f'{{{said}, "at": "2026-11-22T12:00:00+00:00"}}'.encode()
        assert status_row("status/detector/cam0", payload, NOW)[3] == state


def test_a_table_of_thousands_is_whole(pipeline: Pipeline) -> None:
    pipeline.edge()
    client = pipeline.client(pipeline.edge_port)
    for n in range(3000):
        client.publish(f"status/detector/cam{n}", b'{"state": "up"}' + bytes([32]) * 400, qos=1, retain=True)
    client.publish("end", b"", qos=1).wait_for_publish(60)
    assert sum(row[1] == "detector" for row in rows_of(pipeline)) == 3000


def test_the_fleet_shows_who_is_behind_and_whose_certificate_ends(pipeline: Pipeline) -> None:
    pipeline.cloud()
    pipeline.s3_server()
    pipeline.sink()
    until = subprocess.run(
        ["openssl", "x509", "-in", pipeline.certs / "s3sink" / "tls.crt", "-noout", "-enddate", "-dateopt", "iso_8601"],
        capture_output=True, text=True, check=True,
    ).stdout.strip().removeprefix("notAfter=").replace(" ", "T")  # fmt: skip
    eventually(lambda: f"version={VERSION} " in status(pipeline, pipeline.sink_port, "operator")[1])
    assert f"certificate_until={until} " in status(pipeline, pipeline.sink_port, "operator")[1]


def test_until_when_the_bridge_s_certificate_is_valid_is_said_by_the_logger(pipeline: Pipeline) -> None:
    pipeline.edge()
    pipeline.logger(BRIDGE_CERT=str(pipeline.certs / "jetson-01" / "tls.crt"))
    eventually(lambda: "certificate_until=" in status(pipeline, pipeline.edge_port)[1])


def test_a_device_that_is_gone_for_good_is_forgotten_by_the_documented_command(pipeline: Pipeline) -> None:
    pipeline.edge()
    client = pipeline.client(pipeline.edge_port)
    for topic in ("status/detector/cam1", "status/detector/cam2"):
        client.publish(topic, b'{"state": "down"}', qos=1, retain=True).wait_for_publish(10)
    page = (ROOT / "docs/operations.md").read_text()
    words = re.findall(r"mosquitto_sub .*--remove-retained.*", page)[0].split()
    subprocess.run([*words, "-p", str(pipeline.edge_port)], check=False, timeout=30)
    eventually(lambda: [row[2] for row in rows_of(pipeline)[1:] if row[1] == "detector"] == ["cam2"])


def test_hostile_status_messages_are_shown_and_believed_nothing() -> None:
    for payload in (
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"state": "up", "at": 7}',
        b'{"state": "up", "at": "x"}',
        b'{"state": "up", "every": []}',
        b'{"state": "up", "x": ' + 9000 * b"[",
        b"[" * 100_000,
        b'{"state": "up", "x": "' + 20_000 * b"x" + b'"}',
        b'{"state": "up", "at": "2026-11-22T11:59:59"}',
    ):
        assert status_row("status/a/b/c", payload, NOW)[3] == "unreadable"
    row = status_row("status/\x1b[2J/b/c\nd", b'{"state": "up\\u001b[0m", "x\\n": "\\u0007"}', NOW)
    assert table([row]).isprintable() is False  # only for the line break between header and row
    assert all(line.isprintable() for line in table([row]).splitlines())
    assert len(table([row]).splitlines()) == 2
    assert status_row("status", b"", NOW)[:4] == ("-", "-", "-", "unreadable")
