"""Does every face arrive when all runs in containers, and these and the WAN fail? Does cloud/up hold?

Run it by tests/docker/run. The tests go down in order on one deployment: from nothing, over the run with
everything that can fail, to nothing.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.clip import make_clip
from tests.docker.containers import (
    BROKER_IMAGE,
    BUCKET,
    EDGE,
    KEYS,
    PROJECT,
    Bucket,
    Cloud,
    Listener,
    docker,
    eventually,
    inspect,
    leftovers,
    remove_everything,
    run_edge_broker,
    start_edge_broker,
    start_s3,
    start_service,
)
from tests.pipeline import ROOT, free_port, make_certs
from tests.test_recipes import lines
from tests.test_rerouting import add

pytestmark = pytest.mark.skipif(not BROKER_IMAGE, reason="in containers: run tests/docker/run")
BROKER, SINK = f"{PROJECT}-cloud-broker", f"{PROJECT}-s3sink"


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    """Nothing is there before, and nothing is left afterwards."""
    remove_everything()
    yield
    remove_everything()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    """The cloud's side, not up yet."""
    return Cloud(tmp_path_factory.mktemp("cloud"))


@pytest.fixture(scope="module")
def bucket(cloud: Cloud) -> Bucket:  # noqa: ARG001 the order
    """The S3 server, in which there is no bucket yet."""
    start_s3()
    return Bucket()


@pytest.fixture(scope="module")
def edge(cloud: Cloud, bucket: Bucket) -> Listener:  # noqa: ARG001 the order
    """The edge's broker and logger, and somebody who hears all its faces."""
    port = start_edge_broker(cloud.certs)
    start_service("logger")
    return Listener(port)


@pytest.fixture(autouse=True)
def logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """The last lines of every container, when a test fails."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        for name in docker("container", "ls", "-a", "--filter", f"name=^{PROJECT}", "--format={{.Names}}").split():
            lines = "5" if name.endswith("-s3") else "30"
            print(f"---- {name}\n{docker('logs', '--tail', lines, name)}")


def picture(seed: int) -> bytes:
    """A small JPEG that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def anonymous(bucket: Bucket, key: str, body: bytes | None = None) -> tuple[int, bytes]:
    """What everybody is answered: GET, or PUT with a body."""
    request = urllib.request.Request(bucket.public_url(key), data=body, method="GET" if body is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


# ---- bad input: a clear line, and nothing half-made ----------------------------------------------------


def test_a_bad_bucket_name_leaves_nothing(cloud: Cloud) -> None:
    said = cloud.refused(S3_BUCKET="Not_A_Bucket")
    assert "S3_BUCKET=Not_A_Bucket: give the name of a bucket" in said
    assert leftovers() == set()


def test_a_wrong_secret_is_named(cloud: Cloud, bucket: Bucket) -> None:  # noqa: ARG001 the server
    said = cloud.refused(AWS_SECRET_ACCESS_KEY="wrong")
    assert "cloud/up: the bucket is not ready" in said
    assert re.search("403|SignatureDoesNotMatch", said), said
    assert leftovers() == {f"network {PROJECT}"}


def test_a_taken_port_is_named_and_leaves_nothing(cloud: Cloud, bucket: Bucket) -> None:  # noqa: ARG001
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        said = cloud.refused(CLOUD_PORT=str(port))
    assert f"port {port} is taken" in said
    assert leftovers() == {f"network {PROJECT}"}


def test_an_image_that_does_not_run_leaves_nothing(cloud: Cloud, bucket: Bucket) -> None:  # noqa: ARG001
    said = cloud.refused(BROKER_IMAGE="faces-test/s3sink")
    assert "the sink does not reach the broker" in said
    assert leftovers() == {f"network {PROJECT}"}


# ---- up ------------------------------------------------------------------------------------------------


def test_up_publishes_8883_alone_and_says_what_to_do_on_the_edge(cloud: Cloud, bucket: Bucket) -> None:
    said = cloud.up()
    assert "mosquitto/certs device jetson-01" in said
    assert "create secret generic bridge-tls" in said
    open_ports = {
        (name, port)
        for name in (BROKER, SINK)
        for port, where in inspect(name)["NetworkSettings"]["Ports"].items()
        if where
    }
    assert open_ports == {(BROKER, "8883/tcp")}
    assert anonymous(bucket, "index.html")[0] == 200


@pytest.mark.parametrize("name", [BROKER, SINK])
def test_containers_are_hardened_and_bounded(name: str) -> None:
    told = inspect(name)
    host = told["HostConfig"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", told["Config"]["User"])
    assert (host["ReadonlyRootfs"], host["Privileged"]) == (True, False)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    if name == BROKER:
        # more than the conf's connections
        assert [limit["Hard"] for limit in host["Ulimits"]] == [16384]
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert not any(KEYS["AWS_SECRET_ACCESS_KEY"] in word for word in told["Args"])


def test_no_container_sees_a_key_of_another() -> None:
    mounts = {name: {mount["Source"] for mount in inspect(name)["Mounts"]} for name in (BROKER, SINK)}
    assert mounts[BROKER].isdisjoint(mounts[SINK])
    assert "ca.key" not in docker("exec", BROKER, "ls", "/mosquitto/certs")
    assert "tls.key" in docker("exec", SINK, "ls", "/certs")


def test_up_again_changes_nothing(cloud: Cloud) -> None:
    before = [inspect(name)["Id"] for name in (BROKER, SINK)]
    cloud.up()
    assert [inspect(name)["Id"] for name in (BROKER, SINK)] == before


def test_of_two_at_once_one_says_so(cloud: Cloud) -> None:
    both = [cloud.begin("up"), cloud.begin("up")]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert any(text == "cloud/up: another cloud/up or cloud/down is running\n" for text in said)


def test_a_second_cell_stands_beside_the_first(cloud: Cloud, bucket: Bucket, tmp_path: Path) -> None:
    before = [inspect(name)["Id"] for name in (BROKER, SINK)]
    other = Cloud(tmp_path, f"{PROJECT}-cell-2")
    other.certs.mkdir()
    for name in ("ca.crt", "ca.key"):  # as docs/cells.md says
        (other.certs / name).symlink_to(cloud.certs / name)
    docker("network", "create", other.project)
    docker("network", "connect", "--alias", "s3", other.project, f"{PROJECT}-s3")
    try:
        other.up(CLOUD_PORT="18893")
        make_certs(cloud.certs, "device porch")
        ca, crt, key = (str(cloud.certs / "porch" / name) for name in ("ca.crt", "tls.crt", "tls.key"))
        device = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        device.tls_set(ca, crt, key)
        device.connect("localhost", 18893)
        device.loop_start()
        device.publish("faces/porch/cam0", picture(0), qos=1).wait_for_publish(30)
        device.disconnect()
        (stored,) = eventually(lambda: bucket.everything("faces/porch/cam0/"))
        bucket.s3.delete_object(Bucket=BUCKET, Key=stored)  # the next tests count
        assert "key=faces/porch/cam0/" in docker("logs", f"{other.project}-s3sink")
        assert [inspect(name)["Id"] for name in (BROKER, SINK)] == before
    finally:
        docker("network", "disconnect", other.project, f"{PROJECT}-s3")
        other.down("--all")
    assert [inspect(name)["State"]["Running"] for name in (BROKER, SINK)] == [True, True]
    assert not any("cell-2" in name for name in leftovers())


def test_an_update_that_fails_leaves_what_ran_running(cloud: Cloud) -> None:
    before = [inspect(name)["Id"] for name in (BROKER, SINK)]
    # Nothing but the sink itself notices
    said = cloud.refused(MQTT_CLIENT_ID="no client id")
    assert "MQTT_CLIENT_ID=no client id: up to 64 letters" in said
    assert [inspect(name)["Id"] for name in (BROKER, SINK)] == before
    assert all(inspect(name)["State"]["Running"] for name in (BROKER, SINK))
    assert not any("-before" in name for name in leftovers())


def test_the_sinks_credentials_may_be_a_file_that_is_replaced(cloud: Cloud, bucket: Bucket, tmp_path: Path) -> None:  # noqa: ARG001
    folder = tmp_path / "aws"
    folder.mkdir()
    # as cloud/assume-role writes them, but without a session, which this store has not
    keys = {"Version": 1, "AccessKeyId": KEYS["AWS_ACCESS_KEY_ID"], "SecretAccessKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    credentials = folder / "credentials.json"
    credentials.write_text(json.dumps(keys))
    (folder / "config").write_text(f'[default]\ncredential_process = cat "{credentials}"\n')
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    cloud.up(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_CONFIG_FILE=str(folder / "config"))
    (folder / "new").write_text("renewed")
    (folder / "new").replace(credentials)
    assert docker("exec", SINK, "cat", credentials) == "renewed"
    assert docker("exec", BROKER, "ls", folder, check=False).endswith("No such file or directory")
    cloud.up()


def test_a_crash_ends_in_a_restart() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can kill what runs in a container as a crash would; docker kill counts as a stop")
    for name in (BROKER, SINK):
        crashed = inspect(name)["State"]["Pid"]
        os.kill(crashed, 9)
        eventually(lambda name=name, crashed=crashed: inspect(name)["State"]["Pid"] not in (0, crashed))  # type: ignore[misc]


# ---- the faces -----------------------------------------------------------------------------------------


def faces_found() -> set[str]:
    """The ids of all faces that the detector has said it found."""
    return set(re.findall(r"^face: id=(\w+)", docker("logs", f"{EDGE}-detector"), re.MULTILINE))


def test_every_face_arrives_once_though_the_wan_and_the_containers_fail(
    cloud: Cloud, bucket: Bucket, edge: Listener, tmp_path: Path
) -> None:
    make_clip(tmp_path / "clip.mp4", seconds=20)
    model = os.environ.get("FACE_MODEL")
    options = ["-v", f"{model}:/model.onnx:ro", "-e", "FACE_MODEL=/model.onnx"] if model else []
    start_service(
        "detector", "-v", f"{tmp_path}/clip.mp4:/clip.mp4:ro", "-v", f"{EDGE}-spool:/spool",
        "-e", "CAMERA=/clip.mp4", "-e", "FACE_INTERVAL=0.2", "-e", "RESEND_AFTER=5",
        "-e", "HEARTBEAT=/tmp/heartbeat", *options,
    )  # fmt: skip
    eventually(lambda: len(bucket.everything()) > 3)

    docker("network", "disconnect", PROJECT, f"{EDGE}-broker")
    in_the_bucket = len(bucket.everything())
    found = len(faces_found())
    eventually(lambda: len(faces_found()) > found + 5)
    assert len(bucket.everything()) <= in_the_bucket + 2, "the WAN is not cut"
    docker("kill", f"{EDGE}-detector")
    docker("kill", f"{EDGE}-broker")
    docker("start", f"{EDGE}-broker")
    docker("start", f"{EDGE}-detector")  # from the clip's beginning, and with what is in its spool
    found = len(faces_found())
    eventually(lambda: len(faces_found()) > found + 5)
    docker("network", "connect", PROJECT, f"{EDGE}-broker")

    eventually(lambda: len(bucket.everything()) > in_the_bucket + 3)
    docker("kill", SINK)
    docker("kill", BROKER)
    cloud.up()
    assert docker("wait", f"{EDGE}-detector") == "0", "it ends when every receipt is home"

    ids = faces_found()
    stored = {re.sub(r".*-(\w{16})\.jpg$", r"\1", key): key for key in bucket.everything()}
    assert set(stored) == ids
    assert len(bucket.everything()) == len(ids), "a face is stored twice"
    # A face that is cut while the edge's broker is away goes again/ alone: who listens hears the live ones only
    eventually(lambda: len(ids - set(edge.faces)) < 5)
    for id_, key in stored.items():
        body, metadata, kind = bucket.get(key)
        assert body == edge.faces.get(id_, body)
        assert (metadata["id"], metadata["camera"], kind) == (id_, "cam0", "image/jpeg")
        assert key.startswith("faces/jetson-01/cam0/")
    print(f"{len(ids)} faces, each once")
    lines = docker("logs", f"{EDGE}-logger")
    assert "bridge: state=down" in lines
    assert "bridge: state=up" in lines


def test_the_operator_sees_the_fleet(cloud: Cloud, edge: Listener) -> None:  # noqa: ARG001 the order
    make_certs(cloud.certs, "operator")
    fleet = docker(
        "run", "--rm", "--network", PROJECT, "--user", str(os.geteuid()),
        "-v", f"{cloud.certs}/operator:/certs:ro", "-e", "MQTT_HOST=cloud-broker", "-e", "MQTT_PORT=8884",
        "-e", "MQTT_CERTS=/certs", "faces-test/logger", "python", "-m", "logger", "--status",
    )  # fmt: skip
    rows = [line.split()[:4] for line in fleet.splitlines()]
    assert ["jetson-01", "detector", "cam0", "done"] in rows
    assert ["jetson-01", "logger", "logger", "up"] in rows
    assert ["-", "s3sink", "s3sink", "up"] in rows


def test_the_documented_exporter_serves_the_fleet_s_figures(cloud: Cloud, edge: Listener) -> None:  # noqa: ARG001
    make_certs(cloud.certs, "operator")
    page = (ROOT / "docs/metrics.md").read_text()
    command = re.findall(r"^\$ (docker run (?:.*\\\n)*.*)", page, re.MULTILINE)[0]
    port = free_port()
    for written, here in (
        ("--name faces-metrics --network faces ", f"--name {PROJECT}-metrics --network {PROJECT} "),
        ("$PWD/certs", str(cloud.certs)),
        (":9000:", f":{port}:"),
        # the same release from PyPI
        ("kpetrem/mqtt-exporter:1.12.1", "faces-test/mqtt-exporter"),
    ):
        assert written in command
        command = command.replace(written, here)
    subprocess.run(command, shell=True, cwd=ROOT, check=True)

    def figures() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    for figure in ("status_jetson-01_logger_logger", "status_s3sink_s3sink"):
        eventually(lambda figure=figure: f'mqtt_state{{topic="{figure}"}} 1.0' in figures())  # type: ignore[misc]
    eventually(lambda: 'mqtt_dropped{topic="$sys_broker_publish_messages"}' in figures())
    docker("rm", "-f", f"{PROJECT}-metrics")


def test_a_stolen_device_is_shut_out_by_cloud_up_and_all_others_stay_connected(
    cloud: Cloud,
    edge: Listener,  # noqa: ARG001 the order
) -> None:
    make_certs(cloud.certs, "device jetson-02")
    party = cloud.certs / "jetson-02"
    thief = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    thief.tls_set(str(party / "ca.crt"), str(party / "tls.crt"), str(party / "tls.key"))
    told: list[str] = []
    thief.on_publish = lambda _client, _data, _mid, reason, _properties: told.append(reason.getName())
    thief.connect("localhost", int(cloud.settings["CLOUD_PORT"]))
    thief.loop_start()

    def says(word: str) -> bool:
        count = len(told)
        thief.publish("status/jetson-02/detector/cam0", b"stolen", qos=1)
        eventually(lambda: len(told) > count)
        return word in told[-1]

    assert not says("Not authorized")
    connected = [name for name in (BROKER, SINK) for _ in docker("logs", name).splitlines() if "onnected" in _]
    before = [inspect(name)["Id"] for name in (BROKER, SINK)]
    script = cloud.checkout / "mosquitto/certs"
    subprocess.run([script, "revoke", "jetson-02"], env={**os.environ, "CERTS": str(cloud.certs)}, check=True)
    cloud.up()
    eventually(lambda: says("Not authorized"))
    assert thief.is_connected()
    assert [inspect(name)["Id"] for name in (BROKER, SINK)] == before
    assert connected == [name for name in (BROKER, SINK) for _ in docker("logs", name).splitlines() if "onnected" in _]
    thief.reconnect()
    eventually(lambda: "certificate verify failed" in docker("logs", BROKER))
    thief.loop_stop()


def test_everybody_may_read_the_faces_and_write_nothing(bucket: Bucket, edge: Listener) -> None:
    key = bucket.everything()[0]
    id_ = key[-20:-4]
    assert anonymous(bucket, key) == (200, edge.faces[id_])
    assert anonymous(bucket, "index.html")[0] == 200
    assert anonymous(bucket, "?list-type=2&prefix=faces/")[0] == 200
    assert anonymous(bucket, "?list-type=2")[0] == 403
    assert anonymous(bucket, "faces/jetson-01/cam0/forged.jpg", picture(0))[0] == 403
    assert anonymous(bucket, key, picture(0))[0] == 403
    assert anonymous(bucket, key) == (200, edge.faces[id_])


def test_a_thousand_faces_fit_the_small_vm(bucket: Bucket, edge: Listener) -> None:
    before = len(bucket.everything())
    edge.publish(picture(seed) for seed in range(1000))
    most: dict[str, float] = {}

    def all_stored() -> bool:
        usage = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", BROKER, SINK)
        for name, amount, unit in re.findall(r"^(\S+) ([\d.]+)(\w+) /", usage, re.MULTILINE):
            mib = float(amount) * {"KiB": 2**-10, "MiB": 1, "GiB": 2**10}[unit]
            most[name] = max(mib, most.get(name, 0))
        return len(bucket.everything()) >= before + 1000

    eventually(all_stored)
    print(f"1000 faces of {len(picture(0))} bytes: most memory in MiB, by docker stats: {most}")
    assert most[BROKER] < 200
    assert most[SINK] < 200


# ---- a broker that is full -------------------------------------------------------------------------------


def test_a_full_edge_takes_all_that_comes_keeps_what_fits_and_stays_small(
    edge: Listener,  # noqa: ARG001 the order
    tmp_path: Path,
) -> None:
    conf = (ROOT / "mosquitto/edge/mosquitto.conf").read_text()
    limit = int(re.findall(r"^max_queued_bytes (\d+)$", conf, re.MULTILINE)[0])
    # the shipped conf, and no cloud for this one: what it takes stays in its queue
    name = f"{EDGE}-full"
    publisher = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    lost: list[object] = []
    publisher.connect("127.0.0.1", run_edge_broker(name, ROOT / "mosquitto/edge"))
    publisher.loop_start()
    eventually(publisher.is_connected)
    publisher.on_disconnect = lambda *args: lost.append(args[3])
    for _ in range(3 * limit // 40_000):
        publisher.publish("faces/cam0", bytes(40_000), qos=1).wait_for_publish(60)
    assert not lost
    held = queued(name, "bridge-to-cloud", tmp_path)
    assert 0.9 * limit < held * 40_000 < 1.3 * limit
    pid = inspect(name)["State"]["Pid"]
    (peak,) = re.findall(r"^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    print(f"three times its queue of {limit // 10**6} MB: {held} messages kept, {int(peak) // 1024} MiB at most")
    # what Kubernetes gives it
    assert int(peak) * 1024 < 256 * 2**20
    docker("restart", name)
    eventually(lambda: queued(name, "bridge-to-cloud", tmp_path) == held)
    publisher.disconnect()
    publisher.loop_stop()


# ---- a second port on the edge, with passwords ----------------------------------------------------------


def test_the_port_for_other_programs_lets_in_by_password_alone(
    edge: Listener,  # noqa: ARG001 the order
    tmp_path: Path,
) -> None:
    conf = tmp_path / "edge"
    shutil.copytree(ROOT / "mosquitto/edge", conf)
    (listener,) = lines("The way in")
    add(conf / "mosquitto.conf", "max_packet_size 1000000", listener)
    client = ["run", "--rm", "--network", EDGE, "--entrypoint"]
    make = ["-v", f"{conf}:/to", "--user", "0", BROKER_IMAGE, "-c"]
    docker(*client, "sh", *make, "mosquitto_passwd -b -c /to/passwords doorbell secret; chown 1883 /to/passwords")
    name = f"{EDGE}-lan"
    run_edge_broker(name, conf, "--network-alias", "lan-broker")
    ring = [*client, "mosquitto_pub", BROKER_IMAGE, "-h", "lan-broker", "-q", "1", "-t", "faces/doorbell", "-m", "x"]
    docker(*ring)  # on 1883, as ever
    docker(*ring, "-p", "1884", "-u", "doorbell", "-P", "secret")
    for wrong in (["-u", "doorbell", "-P", "wrong"], []):
        assert "not authorised" in docker(*ring, "-p", "1884", *wrong, check=False)
    docker("rm", "-fv", name)


# ---- a role that may only put, and down ----------------------------------------------------------------


def test_a_role_that_may_only_put_is_enough(cloud: Cloud, bucket: Bucket) -> None:
    policy = json.loads(bucket.s3.get_bucket_policy(Bucket=BUCKET)["Policy"])
    arn = f"arn:aws:s3:::{BUCKET}"
    put = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam:::user/role"},
        "Action": "s3:PutObject",
        "Resource": [f"{arn}/faces/*", f"{arn}/rejected/*"],
    }
    policy["Statement"].append(put)
    bucket.s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    cloud.settings.update(AWS_ACCESS_KEY_ID=f"role{KEYS['AWS_ACCESS_KEY_ID']}", S3_PUBLIC="", S3_EXPIRE_DAYS="")
    cloud.up()


def test_down_keeps_the_queue_and_up_goes_on_with_it(
    cloud: Cloud, bucket: Bucket, edge: Listener, tmp_path: Path
) -> None:
    docker("stop", SINK)
    before = len(bucket.everything())
    # Without an id: nobody sends these again, they are in the cloud's queue or nowhere
    edge.publish(picture(seed) for seed in range(5000, 5020))
    eventually(lambda: queued(BROKER, "s3sink", tmp_path) == 20)
    said = cloud.down()
    assert f"removed container {BROKER}" in said
    assert leftovers() == {f"network {PROJECT}", f"volume {PROJECT}-data"}
    assert cloud.down() == ""
    cloud.up()
    eventually(lambda: len(bucket.everything()) == before + 20)


def queued(broker: str, client_id: str, directory: Path) -> int:
    """How many messages wait for a client in a broker's database; -1 when that was caught half-written."""
    docker("cp", f"{broker}:/mosquitto/data", directory)
    query = "SELECT count(*) FROM client_msgs WHERE client_id = ?"
    try:
        with contextlib.closing(sqlite3.connect(directory / "data/mosquitto.sqlite3")) as database:
            return int(database.execute(query, [client_id]).fetchone()[0])
    except sqlite3.Error as error:
        print(error)
        return -1
    finally:
        shutil.rmtree(directory / "data")


def test_down_all_removes_everything_but_the_bucket(cloud: Cloud, bucket: Bucket) -> None:
    stored = bucket.everything()
    for name in (f"{PROJECT}-s3", f"{EDGE}-broker"):
        docker("network", "disconnect", PROJECT, name)
    cloud.down("--all")
    assert leftovers() == set()
    docker("network", "create", PROJECT)
    docker("network", "connect", PROJECT, f"{PROJECT}-s3")
    assert Bucket().everything() == stored
    assert (cloud.certs / "ca.key").exists()
