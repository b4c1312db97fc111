"""Do the shipped exporter settings, alert rules and dashboard say what the real services say of themselves?"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tests.mjpeg import Stream, camera_server
from tests.pipeline import ROOT, Pipeline, eventually, free_port
from tests.test_sink import picture

METRICS = ROOT / "k8s/components/metrics"
RULES = {rule["alert"]: rule for rule in yaml.safe_load((METRICS / "alerts.yaml").read_text())["groups"][0]["rules"]}
QUERIES = [
    target["expr"]
    for panel in json.loads((METRICS / "dashboard.json").read_text())["panels"]
    for target in panel["targets"]
]
PROMETHEUS = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(None in PROMETHEUS, reason="no prometheus and promtool: apt-get install prometheus")

# ---- the rules ----------------------------------------------------------------------------------------

DETECTOR, SINK = 'topic="status_jetson-01_detector_cam0"', 'topic="status_s3sink_s3sink-0"'
SYS, MINUTES = 'topic="$sys_broker_publish_messages"', 120
WELL = {  # one sample a minute, and time() starts at 0
    f"mqtt_state{{{DETECTOR}}}": f"1+0x{MINUTES}",
    f"mqtt_state_ts{{{DETECTOR}}}": f"0+60x{MINUTES}",
    f"mqtt_every{{{DETECTOR}}}": f"10+0x{MINUTES}",
    f"mqtt_camera{{{DETECTOR}}}": f"1+0x{MINUTES}",
    f"mqtt_oldest_s{{{DETECTOR}}}": f"3+0x{MINUTES}",
    f"mqtt_dropped{{{DETECTOR}}}": f"0+0x{MINUTES}",
    f"mqtt_refused{{{DETECTOR}}}": f"0+0x{MINUTES}",
    f"mqtt_certificate_until_s{{{DETECTOR}}}": f"9000000+0x{MINUTES}",
    f"mqtt_held{{{SINK}}}": f"0+0x{MINUTES}",
    f"mqtt_seconds_since_last{{{SINK}}}": f"30+0x{MINUTES}",
    f"mqtt_dropped{{{SYS}}}": f"7+0x{MINUTES}",
    "mqtt_bridge{}": f"1+0x{MINUTES}",
}
# alert -> what is not as above, and what the alert then says
ILL: dict[str, tuple[dict[str, str], str]] = {
    "FacesUnseen": (dict.fromkeys(WELL, "_"), "the exporter, the broker or the operator's certificate"),
    "FacesWithoutReceipt": (
        {f"mqtt_oldest_s{{{DETECTOR}}}": f"301+0x{MINUTES}"},
        "detector_cam0: a face waits for its receipt for 301 s",
    ),
    "FacesCameraLost": ({f"mqtt_camera{{{DETECTOR}}}": f"0+0x{MINUTES}"}, "detector_cam0: the camera is gone"),
    "FacesDropped": ({f"mqtt_dropped{{{DETECTOR}}}": f"0+0x{MINUTES - 5} 1+0x5"}, "faces are lost, its spool is full"),
    "FacesRefused": ({f"mqtt_refused{{{DETECTOR}}}": f"0+0x{MINUTES - 5} 1+0x5"}, "are refused by the broker or"),
    "FacesServiceDown": ({f"mqtt_state{{{DETECTOR}}}": f"4+0x{MINUTES}"}, "detector_cam0 is down or stuck"),
    "FacesDeviceSilent": ({f"mqtt_state_ts{{{DETECTOR}}}": f"0+60x{MINUTES - 3} 7020+0x3"}, "jetson-01 is silent"),
    "FacesBridgeDown": ({"mqtt_bridge{}": f"0+0x{MINUTES}"}, "its bridge to the cloud is down"),
    "FacesSinkHolding": ({f"mqtt_held{{{SINK}}}": f"3+0x{MINUTES}"}, "s3sink-0: the bucket does not take 3 objects"),
    "FacesBucketSilent": ({f"mqtt_seconds_since_last{{{SINK}}}": f"0+60x{MINUTES}"}, "nothing was stored for 7200 s"),
    "FacesBrokerDrops": ({f"mqtt_dropped{{{SYS}}}": f"7+0x{MINUTES - 5} 8+0x5"}, "a queue is full"),
    "FacesCertificateEnds": (
        {f"mqtt_certificate_until_s{{{DETECTOR}}}": f"1000000+0x{MINUTES}"},
        "ends in 11d 11h 46m",
    ),
}


def firing(directory: Path, changed: dict[str, str]) -> dict[str, str]:
    """Let promtool say which alerts fire after two hours of these series, and with which words."""
    series = [{"series": name, "values": values} for name, values in {**WELL, **changed}.items() if values != "_"]
    asked = [{"eval_time": f"{MINUTES}m", "alertname": alert, "exp_alerts": []} for alert in RULES]
    tests = {
        "rule_files": [str(METRICS / "alerts.yaml")],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": asked}],
    }
    file = directory / "rules_test.yaml"
    file.write_text(yaml.safe_dump(tests))
    ended = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    # each alert that fires is one that was not expected, and shown with its words
    blocks = ended.stderr.split("alertname: ")[1:]
    assert ended.returncode == (1 if blocks else 0), ended.stdout + ended.stderr
    return {block.split(",")[0].strip(): block for block in blocks}


def test_nothing_fires_when_all_is_well(tmp_path: Path) -> None:
    assert firing(tmp_path, {}) == {}


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_fires_for_what_it_is_there_for_and_no_other_does(alert: str, tmp_path: Path) -> None:
    changed, words = ILL[alert]
    fired = firing(tmp_path, changed)
    assert list(fired) == [alert]
    assert words in fired[alert]


# ---- the real parts ----------------------------------------------------------------------------------------


class Watch:
    """The exporter with the shipped settings, at the cloud and on the edge, and a Prometheus with the shipped rules."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        shipped = {name: value or "" for name, value in dotenv_values(METRICS / "exporter.env").items()}
        # only what a container would have given
        certs = {name: value.replace("/certs", str(pipeline.certs / "operator")) for name, value in shipped.items()}
        cloud = {**certs, "MQTT_ADDRESS": "localhost", "MQTT_PORT": str(pipeline.sink_port)}
        # as docs/metrics.md tells for an edge
        edge = {
            **shipped,
            "MQTT_ADDRESS": "localhost",
            "MQTT_PORT": str(pipeline.edge_port),
            "MQTT_ENABLE_TLS": "False",
        }
        jobs = []
        for name, settings in (("metrics-cloud", cloud), ("metrics-edge", edge)):
            port = str(free_port())
            program = Path(sys.executable).with_name("mqtt-exporter")
            pipeline.start(name, program, **settings, PROMETHEUS_PORT=port, PROMETHEUS_ADDRESS="127.0.0.1")
            jobs.append({"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]})
        conf = pipeline.directory / "prometheus.yml"
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        rules = str(METRICS / "alerts.yaml")
        conf.write_text(yaml.safe_dump({"global": every, "rule_files": [rules], "scrape_configs": jobs}))
        data, listen = pipeline.directory / "prometheus", self.url.removeprefix("http://")
        pipeline.start(
            "prometheus", "prometheus", f"--config.file={conf}", f"--storage.tsdb.path={data}",
            f"--web.listen-address={listen}",
        )  # fmt: skip
        eventually(self.ready)

    def ready(self) -> bool:
        """Tell whether Prometheus answers."""
        try:
            return bool(self.ask("query", query="1"))
        except OSError:
            return False

    def ask(self, what: str, **words: str) -> Any:
        """Ask Prometheus' API."""
        query = urllib.parse.urlencode(words)
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Give the labels and values of a query."""
        found = self.ask("query", query=query)["result"]
        return [(item["metric"], float(item["value"][1])) for item in found]

    def alerts(self) -> set[str]:
        """The alerts whose condition holds, whether or not for long enough."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}


def test_what_the_services_say_reaches_the_rules_and_the_dashboard(pipeline: Pipeline) -> None:
    pipeline.all_but_detector()
    short = {**os.environ, "CERTS": str(pipeline.directory / "short"), "DAYS": "1"}
    subprocess.run([ROOT / "mosquitto/certs", "device", "jetson-01"], env=short, check=True)
    pipeline.logger(BRIDGE_CERT=str(pipeline.directory / "short/jetson-01/tls.crt"))
    watch = Watch(pipeline)
    with camera_server(Stream(fps=5)) as camera:
        pipeline.detector(f"http://127.0.0.1:{camera}/", HEARTBEAT=os.devnull)
        device = pipeline.client(pipeline.cloud_port, "jetson-02")
        eventually(lambda: watch.value('mqtt_camera{topic="status_jetson-01_detector_cam0"} == 1'), 60)
        pipeline.publish(device, "faces/jetson-02/cam0", picture())
        eventually(lambda: watch.value("mqtt_stored == 1"))
        ends = 'mqtt_certificate_until_s{topic="status_jetson-01_logger_logger"} - time() < 86400'
        assert eventually(lambda: watch.value(ends))
        for query in QUERIES:
            assert eventually(lambda query=query: watch.value(query)), query  # type: ignore[misc]
        eventually(lambda: watch.alerts() == {"FacesCertificateEnds"})
        said = watch.ask("rules")["groups"][0]["rules"]
        assert {rule["name"]: rule["health"] for rule in said} == dict.fromkeys(RULES, "ok")
    eventually(lambda: "FacesCameraLost" in watch.alerts(), 60)
    pipeline.kill("logger")
    eventually(lambda: "FacesServiceDown" in watch.alerts(), 60)
    pipeline.kill("s3")
    pipeline.publish(device, "faces/jetson-02/cam1", picture())
    eventually(lambda: "FacesSinkHolding" in watch.alerts(), 60)
    # in two minutes, when nobody will have spoken; the rule's own words, asked of that moment
    silent = RULES["FacesDeviceSilent"]["expr"]
    future = watch.ask("query", query=silent, time=str(time.time() + 120))["result"]
    assert {item["metric"]["device"] for item in future} >= {"jetson-01", "s3sink"}
    pipeline.kill("cloud")
    eventually(lambda: "FacesBridgeDown" in watch.alerts(), 60)
