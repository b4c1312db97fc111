"""Is every face home after hours of outage, soon, and with few copies?

The real delivery and spool, on a clock that does not wait, send into a model of the way: two brokers with
bounded queues that keep their order and drop what does not fit, and a link and a sink that come and go.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from detector.delivery import Delivery
from detector.spool import Spool

HOUR = 3600.0  # s
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Sending(NamedTuple):
    """A face on its way to the cloud, and its receipt on the way back."""

    camera: "Camera"
    id: str
    number: bytes


def always(_now: float) -> bool:
    """Say what never goes away."""
    return True


@dataclass
class Way:
    """The brokers, the link and the sink. Rates are messages a second, times s."""

    link: Callable[[float], bool] = always
    sink: Callable[[float], bool] = always
    link_rate: float = 40
    sink_rate: float = 40
    edge_room: int = 10_000
    cloud_room: int = 50_000
    receipts_lost: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 1000.0
    link_up: bool = True
    edge: deque[Sending] = field(default_factory=deque)
    cloud: deque[Sending] = field(default_factory=deque)
    receipts: deque[Sending] = field(default_factory=deque)
    cut: dict[str, float] = field(default_factory=dict)  # when, by id
    stored: dict[str, float] = field(default_factory=dict)  # when first, by id
    sendings: Counter[str] = field(default_factory=Counter)
    on_the_edge: Counter[str] = field(default_factory=Counter)  # heard by a subscriber of faces/#

    def take(self, topic: str, sending: Sending) -> None:
        """Be the edge's broker."""
        self.sendings[sending.id] += 1
        self.on_the_edge[sending.id] += topic.startswith("faces/")
        if len(self.edge) < self.edge_room:
            self.edge.append(sending)

    def move(self, seconds: float) -> None:
        """Let time go by: receipts come back, faces go on."""
        self.now += seconds
        if self.link_up:
            for receipt in drain(self.receipts, 1000 * seconds):
                if self.chance.random() >= self.receipts_lost:
                    receipt.camera.receive("receipts/cam0", receipt.id.encode(), receipt.number)
            for sending in drain(self.edge, self.link_rate * seconds):
                if len(self.cloud) < self.cloud_room:
                    self.cloud.append(sending)
        if self.sink(self.now):
            for sending in drain(self.cloud, self.sink_rate * seconds):
                self.stored.setdefault(sending.id, self.now)
                self.receipts.append(sending)


def drain(queue: deque[Sending], most: float) -> Iterator[Sending]:
    """Take the oldest, `most` at most."""
    for _ in range(min(int(most), len(queue))):
        yield queue.popleft()


class Camera:
    """A real spool and delivery; this is the client that the delivery sends by."""

    def __init__(self, way: Way, path: Path) -> None:
        self.way, self.path = way, path
        self.connected, self.mid = True, 0
        self.start()

    def start(self) -> None:
        self.spool = Spool(self.path, 10**12)
        self.delivery = Delivery(self.spool, "cam0", True, 60, clock=lambda: self.way.now)
        self.connect()

    def connect(self) -> None:
        self.connected = True
        self.delivery.connected(self, Properties(PacketTypes.CONNACK))  # type: ignore[arg-type]
        self.bridge()

    def bridge(self) -> None:
        self.receive("status/bridge", b"1" if self.way.link_up else b"0")

    def cut(self) -> None:
        id_ = f"{len(self.way.cut):016x}"
        self.way.cut[id_] = self.way.now
        self.spool.add(id_, "image/jpeg", {"id": id_, "captured_at": "2026-11-22T10:20:30.456Z"}, b"face")

    def step(self) -> None:
        self.delivery.step(self)  # type: ignore[arg-type]

    def receive(self, topic: str, payload: bytes, number: bytes = b"") -> None:
        message = mqtt.MQTTMessage(1, topic.encode())
        message.payload = payload
        message.properties = Properties(PacketTypes.PUBLISH)
        if number:
            message.properties.CorrelationData = number
        self.delivery.on_message(self, None, message)  # type: ignore[arg-type]

    def is_connected(self) -> bool:
        return self.connected

    def publish(self, topic: str, _payload: bytes, qos: int, properties: Any) -> SimpleNamespace:
        assert qos == 1
        self.mid += 1
        id_ = dict(properties.UserProperty)["id"]
        self.way.take(topic, Sending(self, id_, properties.CorrelationData))
        self.delivery.on_publish(self, None, self.mid, SimpleNamespace(is_failure=False), None)  # type: ignore[arg-type]
        return SimpleNamespace(mid=self.mid)

    def subscribe(self, _topic: str, _qos: int) -> None: ...

    def ack(self, _mid: int, _qos: int) -> None: ...


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory, where there is one: each face is synced to disk."""
    with TemporaryDirectory(dir=SHM) as name:
        yield Path(name)


def until_home(
    way: Way, directory: Path, *, cameras: int = 1, every: float = 1, hours: float, wipe_at: float = -1, tick: float = 1
) -> float:
    """Cut a face each `every` s for some hours, and give how long after it (s) all is home."""
    crowd = [Camera(way, directory / f"{number}.db") for number in range(cameras)]
    start, end, due = way.now, way.now + hours * HOUR, [way.now] * cameras
    while any(camera.spool.count for camera in crowd) or way.now < end:
        assert way.now < end + 24 * HOUR, f"{sum(camera.spool.count for camera in crowd)} faces are not home"
        way.move(tick)
        if way.link(way.now - start) != way.link_up:
            way.link_up = not way.link_up
            for camera in crowd:
                camera.bridge()
        if wipe_at >= 0 and way.now >= start + wipe_at:
            way.edge.clear()
            way.cloud.clear()
            wipe_at = -1
        for number, camera in enumerate(crowd):
            while due[number] <= way.now < end:
                camera.cut()
                due[number] += every
            camera.step()
    sendings = way.sendings.total() / len(way.cut)
    print(f"{len(way.cut)} faces, {sendings:.2f} sendings each, all home after {way.now - end:.0f} s")
    assert set(way.stored) == set(way.cut)
    assert set(way.on_the_edge.values()) == {1}
    assert sendings <= 2
    return way.now - end


def wait_of(way: Way, after: float) -> float:
    """Say how long the first face that was cut after a time (s from the start) was on its way."""
    id_, cut = next((id_, cut) for id_, cut in way.cut.items() if cut > 1000 + after)
    return way.stored[id_] - cut


def away(*hours: tuple[float, float]) -> Callable[[float], bool]:
    return lambda now: not any(first * HOUR <= now < last * HOUR for first, last in hours)


def test_the_sink_is_away_for_an_hour(directory: Path) -> None:
    way = Way()
    way.sink = lambda now: away((0.5, 1.5))(now - 1000)
    assert until_home(way, directory, hours=2) < 60
    assert wait_of(way, 1.5 * HOUR) <= HOUR / way.sink_rate + 5  # the queue's own length, and no backlog


def test_the_sink_is_up_for_10_s_in_every_5_min_for_4_h(directory: Path) -> None:
    way = Way()
    way.sink = lambda now: (now - 1000) % 300 < 10 or now - 1000 > 4 * HOUR
    assert until_home(way, directory, hours=4) < 60


@pytest.mark.parametrize("cameras", [20, 50])
def test_many_cameras_on_a_sink_a_little_too_slow_after_an_hour_away(directory: Path, cameras: int) -> None:
    way = Way(sink_rate=cameras / 20 * 0.95, cloud_room=cameras * 100)
    way.sink = lambda now: now - 1000 > HOUR
    took = until_home(way, directory, cameras=cameras, every=20, hours=3, tick=10)
    assert took < 1.3 * len(way.cut) / way.sink_rate  # as long as the sink needs


@pytest.mark.parametrize("wipe", [0.3, 1.4])
def test_queues_are_wiped(directory: Path, wipe: float) -> None:
    way = Way()
    way.sink = lambda now: away((0.5, 1.5))(now - 1000)
    assert until_home(way, directory, hours=2, wipe_at=wipe * HOUR) < 120


def test_all_is_wiped_and_the_camera_sees_nobody_any_more(directory: Path) -> None:
    way = Way(link=away((0, 1)))
    assert until_home(way, directory, hours=0.5, wipe_at=0.9 * HOUR) < HOUR


def test_a_third_of_the_receipts_is_lost(directory: Path) -> None:
    assert until_home(Way(receipts_lost=0.33), directory, hours=2) < HOUR  # all are stored long before


def test_a_link_of_half_the_camera_s_rate_for_2_h(directory: Path) -> None:
    way = Way(link_rate=0.5, edge_room=1000)
    assert until_home(way, directory, hours=2, tick=2) < 1.3 * 2 * HOUR


def test_the_link_is_away_for_3_h_behind_a_short_queue(directory: Path) -> None:
    way = Way(link=away((0.5, 3.5)), edge_room=1000)
    until_home(way, directory, hours=4)
    assert wait_of(way, 3.5 * HOUR) <= 1000 / way.link_rate + 5
    backlog = [at for id_, at in way.stored.items() if 1.5 * HOUR < way.cut[id_] - 1000 < 3.4 * HOUR]
    assert min(backlog) > 1000 + 3.5 * HOUR + wait_of(way, 3.5 * HOUR)  # and that comes beside


def test_the_link_is_up_for_30_s_in_every_10_min(directory: Path) -> None:
    way = Way(link=lambda now: now % 600 < 30, edge_room=300)
    until_home(way, directory, hours=4)
    assert wait_of(way, 3 * HOUR) <= 300 / way.link_rate + 5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["cut", "cut", "lose", "lose receipts", "twice", "shuffle", "restart", "link", "broker", "sink"]
            ),
            st.floats(0, 400),
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_happens_on_the_way(events: list[tuple[str, float]], chance: random.Random) -> None:
    with TemporaryDirectory(dir=SHM) as directory:
        sink_up = [True]
        way = Way(sink=lambda _now: sink_up[0], edge_room=50, cloud_room=50, chance=chance)
        camera = Camera(way, Path(directory, "a.db"))
        for event, wait in events:
            happen(event, camera, sink_up, chance)
            for _ in range(10):
                camera.step()
                way.move(wait / 10)
        sink_up[0] = way.link_up = True
        camera.connect()
        for _ in range(5000):
            camera.step()
            way.move(10)
            # What was let go of is in the bucket
            assert camera.spool.count >= len(way.cut.keys() - way.stored.keys())
        assert camera.spool.count == 0
        assert set(way.stored) == set(way.cut)
        assert max(way.on_the_edge.values(), default=0) <= 1


def happen(  # noqa: C901 a table of events
    event: str, camera: Camera, sink_up: list[bool], chance: random.Random
) -> None:
    """Do to the way what the event says."""
    way = camera.way
    if event == "cut":
        for _ in range(20):
            camera.cut()
    elif event == "lose":
        way.edge.clear()
        way.cloud.clear()
    elif event == "lose receipts":
        way.receipts.clear()
    elif event == "twice":
        way.cloud.extend(list(way.cloud))
        way.receipts.extend(list(way.receipts))
    elif event == "shuffle":
        for queue in (way.edge, way.cloud, way.receipts):
            chance.shuffle(queue)
    elif event == "restart":
        camera.spool.db.close()
        camera.start()
    elif event == "link":
        way.link_up = not way.link_up
        camera.bridge()
    elif event == "broker":
        camera.connected = not camera.connected
        if camera.connected:
            camera.connect()
    elif event == "sink":
        sink_up[0] = not sink_up[0]
