"""Does the gallery show in a browser what lies in the bucket: newest first, live, filtered, never as HTML?

The page is the shipped s3sink/index.html, served out of the bucket that it lists, by a local S3 server.

`python tests/test_gallery.py hashes` renews the page's Content-Security-Policy after an edit,
`python tests/test_gallery.py screenshots` takes the pictures in docs/ anew, and
`python tests/test_gallery.py load 10000` measures how the page bears that many faces.
"""

import base64
import functools
import hashlib
import io
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import axe_playwright_python
import boto3
import cv2
import numpy as np
import pytest
from matplotlib import cbook
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from PIL import Image
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect, sync_playwright
from skimage import data

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "s3sink" / "index.html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage"
NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
PATIENCE = 60_000  # ms, many of the page's looks for new faces, on a busy machine too

expect.set_options(timeout=PATIENCE)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine: apt-get install chromium")


# ---- A bucket with faces ----------------------------------------------------------------------------------


@functools.cache
def portraits() -> tuple[Any, Any]:
    """Eileen Collins (NASA) and Grace Hopper (US Navy), public domain, 200 px square, BGR."""
    collins = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)[30:230, 125:325]
    hopper = cv2.imread(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert hopper is not None
    return collins, cv2.resize(hopper[30:370, 105:445], (200, 200), interpolation=cv2.INTER_AREA)


@functools.cache
def jpeg(seed: int, who: int | None = None) -> bytes:
    """One crop of one of them; the seed decides how near, how bright, which way, its size, and whose."""
    random = np.random.default_rng(seed)
    side = int(random.integers(120, 170))
    x, y = np.clip(100 - side // 2 + random.integers(-14, 15, 2), 0, 200 - side)
    crop = portraits()[int(random.integers(2)) if who is None else who][y : y + side, x : x + side]
    crop = crop[:, ::-1] if random.random() < 0.5 else crop
    size = int(random.integers(72, 240))
    crop = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_AREA)
    crop = cv2.convertScaleAbs(crop, alpha=float(random.uniform(0.75, 1.15)), beta=float(random.uniform(-15, 15)))
    return bytes(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 88])[1])


class Bucket:
    """A public bucket with the gallery in it, and what the tests put there."""

    def __init__(self, port: int, name: str) -> None:
        self.name, self.port, self.count = name, port, 0
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)  # type: ignore[call-overload]
        self.s3.create_bucket(Bucket=name)
        allow = {"Effect": "Allow", "Principal": "*"}
        read = {
            **allow,
            "Action": "s3:GetObject",
            "Resource": [f"arn:aws:s3:::{name}/{it}" for it in ("faces/*", "index.html")],
        }
        listing = {**allow, "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{name}"}
        self.s3.put_bucket_policy(
            Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [read, listing]})
        )
        self.put("index.html", GALLERY.read_bytes(), "text/html")

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/{self.name}/index.html"

    @property
    def virtual_hosted_url(self) -> str:
        return f"http://{self.name}.localhost:{self.port}/index.html"

    def put(self, key: str, body: bytes, kind: str = "image/jpeg", **metadata: str) -> str:
        self.s3.put_object(
            Bucket=self.name,
            Key=key,
            Body=body,
            ContentType=kind,
            CacheControl="public, max-age=31536000, immutable",
            Metadata=metadata,
        )
        return key

    def put_face(
        self,
        at: datetime,
        device: str = "jetson-01",
        camera: str = "door",
        image: bytes = b"",
        visit: int | None = None,
    ) -> str:
        """Store a face as s3sink does, and give its key."""
        self.count += 1
        number = self.count
        face_id = f"{number if visit is None else visit:08x}{number:08x}"
        stamp = f"{at:%H%M%S}.{at.microsecond // 1000:03d}Z"
        captured_at = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
        facts = {
            "box": f"{50 * (number % 20)},{60 + 35 * (number % 9)},176,196",
            "frame_size": "1280x720",
            "score": f"0.{80 + 7 * number % 19}",
        }
        facts |= {"sharpness": f"{120 + number % 77}.5", "track": str(number // 3), "seq": str(number), "schema": "1"}
        key = f"faces/{device}/{camera}/{at:%Y/%m/%d}/{stamp}-{face_id}.jpg"
        return self.put(
            key, image or jpeg(number % 40), id=face_id, camera=quote(camera), captured_at=captured_at, **facts
        )


@contextmanager
def s3_server() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


# Both end with this file: a running browser keeps an event loop that other tests would trip over.
@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def bucket(port: int, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(port, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60])


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in New York that may neither complain on the console nor ask any other host."""
    context = browser.new_context(timezone_id="America/New_York", locale="en-GB", viewport=DESKTOP)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda it: complaints.append(it.url) if not OWN.match(it.url) else None)
    page.clock.install(time=NOON + timedelta(days=2))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    expected = getattr(page, "expected_complaint", None)
    # A container that starts beside this changes the machine's network, and Chromium ends what it was asked for
    assert [it for it in complaints if not (expected and expected in it) and "ERR_NETWORK_CHANGED" not in it] == []


AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
OWN = re.compile(r"data:|https?://([a-z0-9-]+\.)?localhost[:/]")
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


def shown_keys(page: Page) -> list[str]:
    """The objects whose tiles are on the page, in its order."""
    sources = page.locator(".tile img").evaluate_all("images => images.map(image => image.src)")
    return ["faces/" + source.split("/faces/", 1)[1] for source in sources]


def count_becomes(page: Page, text: str) -> None:
    """Let the page's time pass, so that it looks for new faces again, until it counts as many."""
    looks = 40
    while looks and page.locator("#count").text_content() != text:
        looks -= 1
        page.clock.fast_forward(4000)  # ms
        page.wait_for_load_state("networkidle")
    expect(page.locator("#count")).to_have_text(text)


def until(page: Page, condition: str) -> None:
    """Wait for a JavaScript condition; wait_for_function needs an eval, which the policy forbids."""
    give_up = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)  # ms


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


# ---- The tests --------------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("style", ["path", "virtual-hosted"])
def test_faces_of_all_devices_appear_newest_first(bucket: Bucket, page: Page, style: str) -> None:
    old = bucket.put_face(NOON - timedelta(days=40), "jetson-02", "yard")
    first = bucket.put_face(NOON)
    third = bucket.put_face(NOON + minutes(2))
    second = bucket.put_face(NOON + minutes(1), "jetson-02", "yard")
    page.goto(bucket.url if style == "path" else bucket.virtual_hosted_url)
    expect(page.locator("#count")).to_have_text("4 faces")
    assert shown_keys(page) == [third, second, first, old]
    expect(page.locator("#wall h2")).to_have_text(["Friday, 20 November 2026", "Sunday, 11 October 2026"])
    newest = page.locator(".tile").first
    expect(newest.locator("time")).to_have_text("07:02:00")  # New York
    expect(newest).to_have_attribute("title", "Captured 2026-11-20T12:02:00.000Z (UTC)")
    expect(newest.locator("img")).to_have_attribute("alt", "Face seen by door of jetson-01 at 07:02:00")
    until(page, "document.querySelector('.tile img').naturalWidth > 0")


@needs_chromium
def test_new_faces_arrive_without_reload(bucket: Bucket, page: Page) -> None:
    page.goto(bucket.url)
    expect(page.get_by_role("heading", name="No faces yet")).to_be_visible()
    first = bucket.put_face(NOON)
    count_becomes(page, "1 face")
    expect(page.get_by_role("heading", name="No faces yet")).to_be_hidden()
    second = bucket.put_face(NOON + minutes(3))
    count_becomes(page, "2 faces")
    landed_late = bucket.put_face(NOON + minutes(2))
    next_day = bucket.put_face(NOON + timedelta(days=1))
    count_becomes(page, "4 faces")
    assert shown_keys(page) == [next_day, second, landed_late, first]
    other_camera = bucket.put_face(NOON + minutes(1), camera="yard")
    by_hand = bucket.put("faces/jetson-03/undated/0123456789abcdef.jpg", jpeg(1))  # no time but its arrival
    count_becomes(page, "6 faces")
    kept_through_an_outage = bucket.put_face(NOON + timedelta(hours=23.5))
    count_becomes(page, "7 faces")
    assert [it for it in shown_keys(page) if it != by_hand] == [
        next_day,
        kept_through_an_outage,
        second,
        landed_late,
        other_camera,
        first,
    ]


@needs_chromium
def test_who_reads_further_down_is_told_of_new_faces_and_not_moved(bucket: Bucket, page: Page) -> None:
    for number in range(70):
        bucket.put_face(NOON + minutes(number))
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("70 faces")
    page.mouse.wheel(0, 600)
    until(page, "scrollY > 300")
    newest = bucket.put_face(NOON + minutes(100))
    count_becomes(page, "71 faces")
    expect(page.get_by_role("button", name="1 new")).to_be_visible()
    assert newest not in shown_keys(page)
    page.get_by_role("button", name="1 new").click()
    expect(page.locator("#new")).to_be_hidden()
    assert shown_keys(page)[0] == newest


@needs_chromium
def test_filters_choose_device_camera_and_day_and_a_link_keeps_them(bucket: Bucket, page: Page) -> None:
    door = bucket.put_face(NOON)
    yard = bucket.put_face(NOON + minutes(1), camera="yard")
    other = bucket.put_face(NOON + minutes(2), device="jetson-02")
    # 22:00 on the 20th in New York, where this browser is, and already the 21st in the name of the object
    evening = bucket.put_face(NOON + timedelta(hours=15))
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("4 faces")
    assert shown_keys(page) == [evening, other, yard, door]
    page.get_by_label("Device").select_option("jetson-01")
    expect(page.locator("#count")).to_have_text("3 faces")
    page.get_by_label("Camera").select_option("yard")
    expect(page.locator("#count")).to_have_text("1 face")
    assert shown_keys(page) == [yard]

    link = page.url
    assert link.endswith("#device=jetson-01&camera=yard")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#count")).to_have_text("1 face")
    expect(page.get_by_label("Camera")).to_have_value("yard")
    assert shown_keys(page) == [yard]

    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#count")).to_have_text("4 faces")
    page.get_by_label("Day").fill("2026-11-21")
    expect(page.get_by_role("heading", name="No faces here")).to_be_visible()
    page.get_by_label("Day").fill("2026-11-20")
    expect(page.locator("#count")).to_have_text("4 faces")
    page.get_by_label("Day").fill("2026-11-19")
    expect(page.get_by_role("heading", name="No faces here")).to_be_visible()


@needs_chromium
def test_large_view_by_mouse_and_keyboard_tells_all(bucket: Bucket, page: Page) -> None:
    older = bucket.put_face(NOON)
    bucket.put_face(NOON + minutes(1), camera="yard")
    page.goto(bucket.url)
    large = page.get_by_role("dialog")
    page.locator(".tile").first.click()
    expect(large).to_be_visible()
    facts = large.locator("dl")
    for text in [
        "2026-11-20T12:01:00.000Z (UTC)",
        "jetson-01",
        "yard",
        "1280x720",
        "0.94",
        "122.5",
        f"{2:08x}{2:08x}",
        " px, ",
    ]:
        expect(facts).to_contain_text(text)
    expect(large.get_by_role("img", name="Where in the frame")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text(older)
    expect(large.get_by_role("link", name="Original")).to_have_attribute("href", re.compile(re.escape(older) + "$"))
    page.keyboard.press("ArrowRight")  # there is none further
    page.keyboard.press("ArrowLeft")
    expect(facts).to_contain_text("yard")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    expect(page.locator(".tile").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(facts).to_contain_text(older)
    page.mouse.click(5, 5)  # beside it
    expect(large).to_be_hidden()


LISTS = re.compile("list-type=2")


def spaces_as_aws_writes_them(route: Route) -> None:
    """A list whose keys have `+` for a space; moto writes %20."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace("%20", "+"))


@needs_chromium
def test_hostile_names_stay_text(bucket: Bucket, page: Page) -> None:
    page.expected_complaint = "404"  # type: ignore[attr-defined]  # the crop that is no image may fail to load
    script = "<script>alert(1)</script>"
    image = '"><img src=x onerror=alert(1)>'
    cameras = [image, "%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a b+c&d=e", "größe ☺ %zz", "javascript:alert(1)"]
    for number, camera in enumerate(cameras):
        bucket.put_face(NOON + minutes(number), device=script.replace("/", "%2F"), camera=camera)
    bucket.put(f"faces/{script}.jpg", jpeg(1))
    bucket.put("faces/jetson-01/door/2026/11/20/<img src=x onerror=alert(1)>.jpg", jpeg(2), id="<b onclick=alert(1)>")
    page.route(LISTS, spaces_as_aws_writes_them)
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("7 faces")
    until(page, "[...document.querySelectorAll('.tile img')].every(image => image.naturalWidth > 0)")
    for camera in (image, "<script>alert(1)</script>", "a b+c&d=e", "größe ☺ %zz"):
        expect(page.locator(".where").get_by_text(camera, exact=True).first).to_be_visible()
    assert page.locator("script").count() == 1
    assert page.locator("main img:not(.tile img)").count() == 0
    page.locator(f".tile:has-text('{'javascript:'}')").click()
    expect(page.locator("dl")).to_contain_text("javascript:alert(1)")
    page.keyboard.press("Escape")
    page.get_by_label("Camera").select_option(image)
    expect(page.locator("#count")).to_have_text("1 face")


PRIVATE = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
TROUBLES = {  # what happens to the list, what the page then says, and what to do about it
    "private": ((403, PRIVATE), "This bucket is private", "S3_PUBLIC=1 python -m s3sink.bucket"),
    "missing": (
        (404, "<Error><Code>NoSuchBucket</Code></Error>"),
        "There is no such bucket",
        "python -m s3sink.bucket",
    ),
    "unreachable": (None, "The bucket cannot be reached", "tries again"),
    "website": ((200, "<html>index</html>"), "unexpected answer", "REST address"),
}


@needs_chromium
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_told_with_a_remedy_and_passes(bucket: Bucket, page: Page, trouble: str) -> None:
    page.expected_complaint = "Failed to load resource"  # type: ignore[attr-defined]
    answer, title, remedy = TROUBLES[trouble]
    bucket.put_face(NOON)
    if answer:
        page.route(LISTS, lambda route: route.fulfill(status=answer[0], content_type="application/xml", body=answer[1]))
    else:
        page.route(LISTS, lambda route: route.abort())
    page.goto(bucket.url)
    message = page.locator(".message:visible")
    expect(message.get_by_role("heading")).to_contain_text(title)
    expect(message).to_contain_text(remedy)
    page.unroute(LISTS)
    count_becomes(page, "1 face")
    expect(message).to_have_count(0)


@needs_chromium
def test_a_busy_day_is_paged_through_a_cut_and_leaves_the_page_small(
    bucket: Bucket, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "50")  # a list holds 1000 elsewhere
    image = jpeg(3)
    busy_hour = [NOON + timedelta(seconds=30 * number) for number in range(80)]
    other_hours = [NOON - timedelta(seconds=200 * number) for number in range(1, 200)]
    keys = [bucket.put_face(at, image=image) for at in busy_hour + other_hours]
    page.goto(bucket.url)
    newest_first = sorted(keys, reverse=True)
    expect(page.locator("#count")).to_contain_text("+ faces")
    assert shown_keys(page)[:20] == newest_first[:20]
    page.expected_complaint = "Failed to load resource"  # type: ignore[attr-defined]
    cut: list[str] = []

    def fail_once(route: Route) -> None:
        cut.append(route.request.url)
        route.abort()

    page.route(re.compile("start-after=.*2026%2F11%2F20%2F"), fail_once, times=1)  # one hour of that day
    most, seen = scroll_to_the_end(page)
    assert seen == newest_first
    assert most <= 240
    assert cut
    expect(page.locator("#count")).to_have_text("279 faces")


AT_THE_END = """/^[0-9,]+ face/.test(document.querySelector("#count").textContent) &&
    document.querySelector("#older").hidden &&
    scrollY + innerHeight >= document.body.scrollHeight - 60"""  # px, less than a row of tiles


def scroll_to_the_end(page: Page, patience: float = 120) -> tuple[int, list[str]]:
    """Scroll through the whole wall; give the most tiles there were at once, and all objects in order."""
    most, seen, give_up = 0, dict[str, None](), time.monotonic() + patience  # s
    while time.monotonic() < give_up:
        shown = shown_keys(page)
        most = max(most, len(shown))
        seen.update(dict.fromkeys(shown))
        if page.evaluate(AT_THE_END):
            break
        page.evaluate("scrollBy(0, 2 * innerHeight)")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return most, list(seen)


def lists_of(page: Page) -> list[str]:
    """The list requests that the page makes from now on."""
    asked: list[str] = []
    page.on("request", lambda it: asked.append(it.url) if LISTS.search(it.url) else None)
    return asked


def fill(bucket: Bucket, keys: Iterable[str], image: bytes = b"") -> None:
    """Many faces at once: right into the server, here in this process (20,000 PUTs take minutes)."""
    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(bucket.name, key, image or jpeg(3))


def key_of(at: datetime, visit: int, picture: int, camera: str = "door", device: str = "jetson-01") -> str:
    stamp = f"{at:%Y/%m/%d/%H%M%S}.{at.microsecond // 1000:03d}Z"
    return f"faces/{device}/{camera}/{stamp}-{visit:08x}{picture:08x}.jpg"


@needs_chromium
def test_pictures_of_a_visit_are_one_tile(bucket: Bucket, page: Page) -> None:
    second = timedelta(seconds=1)
    fill(bucket, [key_of(NOON + number * second, 7, number) for number in range(600) if number != 300])
    best = bucket.put(key_of(NOON + 300 * second, 7, 300), jpeg(1) + bytes(50_000))
    other = bucket.put(key_of(NOON + 30 * second, 7, 1, camera="yard"), jpeg(2))  # another person
    undated = bucket.put("faces/jetson-01/undated/0123456789abcdef.jpg", jpeg(4))
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("602 faces in 3 visits")
    assert set(shown_keys(page)) == {undated, other, best}
    tile = page.locator(".tile").last
    expect(tile.locator(".visit")).to_have_text("10 min · 600 pictures")
    expect(tile.locator("time")).to_have_text("07:00:00")  # its beginning
    bucket.put(key_of(NOON + 630 * second, 7, 601), jpeg(3))
    count_becomes(page, "603 faces in 3 visits")
    expect(tile.locator(".visit")).to_have_text("11 min · 601 pictures")

    tile.click()
    strip = page.locator("#strip button")
    expect(strip).to_have_count(601)
    expect(page.locator("#strip [aria-current=true]")).to_have_count(1)
    expect(page.locator("dl")).to_contain_text(best)
    strip.first.click()
    expect(page.locator("dl")).to_contain_text(key_of(NOON, 7, 0))
    page.keyboard.press("ArrowUp")
    expect(page.locator("dl")).to_contain_text(key_of(NOON + second, 7, 1))
    page.keyboard.press("ArrowLeft")  # the newer visit, not the next picture
    expect(page.locator("dl")).to_contain_text(other)
    page.go_back()
    expect(page.locator("dl")).to_contain_text(key_of(NOON + second, 7, 1))
    link = page.url
    page.keyboard.press("Escape")
    page.goto("about:blank")
    page.goto(link)  # alone, as who was sent it
    expect(page.locator("dl")).to_contain_text(key_of(NOON + second, 7, 1))
    expect(strip).to_have_count(601)


def heap_of(page: Page) -> int:
    """Bytes, after a garbage collection."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    return int(client.send("Runtime.getHeapUsage")["usedSize"])


def a_minute_passes(page: Page) -> None:
    for _ in range(15):
        page.clock.fast_forward(4000)  # ms
        page.wait_for_timeout(60)  # ms of the real clock, so that the look can end and the next one be set
        page.wait_for_load_state("networkidle")


@needs_chromium
@pytest.mark.parametrize("ago", [minutes(30), timedelta(days=4)], ids=["lately", "days ago"])
def test_looking_at_ten_busy_cameras_costs_little(bucket: Bucket, page: Page, ago: timedelta) -> None:
    now = NOON + timedelta(days=2)
    seconds = timedelta(seconds=1)
    cameras = [f"camera-{number}" for number in range(10)]
    fill(bucket, (key_of(now - ago - it * 300 * seconds, it, it, name) for name in cameras for it in range(150)))
    asked = lists_of(page)
    page.goto(bucket.url)
    expect(page.locator(".tile").first).to_be_visible()
    until_first = len(asked)
    a_minute_passes(page)
    print(f"{until_first} requests to the first faces, {len(asked) - until_first} in the minute after")
    assert until_first <= 10
    assert len(asked) - until_first <= 15
    before = len(asked)
    a_minute_passes(page)
    assert 8 <= len(asked) - before <= 15
    expect(page.get_by_label("Camera").locator("option")).to_have_count(11)


@needs_chromium
def test_a_device_that_names_3000_cameras_hurts_its_own_wall_only(bucket: Bucket, page: Page) -> None:
    now = NOON + timedelta(days=2)
    fill(bucket, (key_of(now - minutes(1), it, it, f"{it:04}", "hostile") for it in range(3000)))
    first = bucket.put_face(now - minutes(10))
    asked = lists_of(page)
    page.goto(bucket.url)
    own = page.locator(f".tile img[src$='{first}']")
    expect(own).to_be_attached()
    assert len(asked) <= 1 + 2 * 9 + 8
    for _ in range(3):
        a_minute_passes(page)
    print(f"{len(asked)} requests to the first faces and in three minutes more")
    assert len(asked) <= 1 + 2 * (9 + 8 + 3 * 15)
    expect(page.locator("#live")).to_contain_text("hostile up to")
    second = bucket.put_face(now + minutes(3))
    asked.clear()
    for _ in range(6):
        page.clock.fast_forward(4000)  # ms
        page.wait_for_timeout(60)
    expect(page.locator(f".tile img[src$='{second}']")).to_be_attached()


@needs_chromium
def test_the_address_follows_what_is_looked_at(bucket: Bucket, page: Page) -> None:
    older, newer = bucket.put_face(NOON), bucket.put_face(NOON + minutes(1))
    page.goto(bucket.url)
    large = page.get_by_role("dialog")
    page.locator(".tile").first.click()
    expect(large.locator("dl")).to_contain_text(newer)
    expect(page.get_by_role("button", name="Newer")).to_have_attribute("aria-disabled", "true")
    page.get_by_role("button", name="Older").click()
    expect(large.locator("dl")).to_contain_text(older)
    expect(page.get_by_role("button", name="Older")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_role("button", name="Newer")).to_have_attribute("aria-disabled", "false")
    link = page.url
    page.go_back()
    expect(large.locator("dl")).to_contain_text(newer)
    page.go_back()
    expect(large).to_be_hidden()
    page.go_forward()
    expect(large.locator("dl")).to_contain_text(newer)
    with page.expect_download() as download:
        large.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "jetson-01 door 2026-11-20 12.01.00.000Z.jpg"
    page.keyboard.press("Escape")
    bucket.s3.delete_object(Bucket=bucket.name, Key=older)
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_role("heading", name="This face is not in the bucket")).to_be_visible()
    expect(page.locator(".tile")).to_have_count(1)


@needs_chromium
def test_back_and_forward_at_once_leaves_the_large_view_open(bucket: Bucket, page: Page) -> None:
    bucket.put_face(NOON)
    page.goto(bucket.url)
    page.locator(".tile").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    link = page.url
    # the dialog's event of its closing comes only after all of this
    page.evaluate(
        """link => new Promise(done => {
            document.querySelector('dialog').addEventListener('close', () => setTimeout(done), {once: true})
            for (const address of ['#', link]) { history.pushState(null, '', address); route() }
        })""",
        link,
    )
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.url == link


@needs_chromium
def test_the_time_of_day_is_a_filter_and_may_span_midnight(bucket: Bucket, page: Page) -> None:
    morning = bucket.put_face(NOON)  # 07:00 in New York
    evening = bucket.put_face(NOON + timedelta(hours=16))  # 23:00
    page.goto(bucket.url)
    page.get_by_label("From").fill("06:00")
    page.get_by_label("To").fill("09:00")
    expect(page.locator(f".tile img[src$='{morning}']")).to_be_attached()
    expect(page.locator("#count")).to_have_text("1 face")
    assert shown_keys(page) == [morning]
    page.get_by_label("From").fill("22:00")
    page.get_by_label("To").fill("05:00")
    expect(page.locator(f".tile img[src$='{evening}']")).to_be_attached()
    expect(page.locator("#count")).to_have_text("1 face")
    assert shown_keys(page) == [evening]
    assert page.url.endswith("#from=22%3A00&to=05%3A00")


@needs_chromium
def test_20_000_faces_of_2_000_visits_fit_in_5_mb(bucket: Bucket, page: Page) -> None:
    second = timedelta(seconds=1)
    visits = [NOON - it * 300 * second for it in range(2000)]
    cameras = ["door", "yard", "gate", "hall"]
    fill(bucket, (key_of(at + it * second, n, it, cameras[n % 4]) for n, at in enumerate(visits) for it in range(10)))
    page.goto("about:blank")
    before = heap_of(page)  # what the test itself has put there
    page.goto(bucket.url)
    expect(page.locator(".tile").first).to_be_visible()
    most, seen = scroll_to_the_end(page)
    expect(page.locator("#count")).to_have_text("20,000 faces in 2,000 visits")
    page.evaluate("showArrived()")  # of a camera that a slow machine looked at when the wall had gone by
    times = page.evaluate("view.chunks.flatMap(chunk => chunk.visits.map(visit => visit.time))")
    assert times == sorted(times, reverse=True)
    assert len(times) == 2000
    print(f"{len(seen)} tiles seen, {most} at once")
    assert most <= 300
    heap = heap_of(page) - before
    print(f"{heap / 1e6:.1f} MB of heap, {before / 1e6:.1f} before")
    assert heap < 5e6


@needs_chromium
def test_metadata_is_read_with_dashes_and_with_underscores(bucket: Bucket, page: Page) -> None:
    names = {"captured-at": "2026-11-20T12:00:00.000Z", "frame-size": "1280x720", "box": "50,60,176,196"}
    key = "faces/jetson-01/door/2026/11/20/{}.000Z-{:08x}00000000.jpg"
    bucket.put(key.format("120000", 1), jpeg(1), **names)
    underscored = {name.replace("-", "_"): value for name, value in names.items()}
    bucket.put(key.format("120001", 2), jpeg(2), **underscored)
    page.goto(bucket.url)
    page.locator(".tile").first.click()
    for _ in ("underscored", "dashed"):
        expect(page.get_by_role("img", name="Where in the frame")).to_be_visible()
        expect(page.locator("dt").get_by_text("frame size", exact=True)).to_have_count(1)
        expect(page.locator("dt").get_by_text("captured at")).to_have_count(0)  # said once, from the key
        page.keyboard.press("ArrowRight")


@needs_chromium
@pytest.mark.parametrize(("score", "said"), [("0.930", "0.930 of 1"), ("15.000", "15 hits of the Haar cascade")])
def test_a_score_says_what_it_is(bucket: Bucket, page: Page, score: str, said: str) -> None:
    bucket.put("faces/jetson-01/door/2026/11/20/120000.000Z-0000000100000000.jpg", jpeg(1), score=score)
    page.goto(bucket.url)
    page.locator(".tile").first.click()
    expect(page.locator("dt", has_text="sure of a face").locator("+ dd")).to_contain_text(said)


@needs_chromium
def test_folder_markers_and_empty_objects_are_no_faces(bucket: Bucket, page: Page) -> None:
    face = bucket.put_face(NOON)
    for key in ("faces/", "faces/jetson-01/door/", "faces/jetson-01/door/2026/11/20/"):
        bucket.put(key, b"")
    bucket.put("faces/jetson-01/door/2026/11/20/120001.000Z-00000000000000ff.jpg", b"")
    bucket.put("faces/(probe)", bytes(50_000))  # the sink's
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("1 face")
    assert shown_keys(page) == [face]


@needs_chromium
def test_a_face_from_the_future_does_not_end_the_live_view(bucket: Bucket, page: Page) -> None:
    future = bucket.put_face(NOON + timedelta(days=30))
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("1 face")
    now = bucket.put_face(NOON + timedelta(days=2))
    count_becomes(page, "2 faces")
    assert shown_keys(page) == [future, now]


SINCE_2023 = """for (const [of, names] of [[Map, ["groupBy"]], [Object, ["groupBy"]], [Array, ["fromAsync"]],
    [Array.prototype, ["toReversed", "toSorted", "toSpliced", "with"]], [Promise, ["withResolvers", "try"]],
    [URL, ["canParse", "parse"]], [Set.prototype, ["union", "difference", "intersection"]]])
        for (const name of names) delete of[name]"""


@needs_chromium
def test_browsers_of_2022_can_show_it(bucket: Bucket, page: Page) -> None:
    page.add_init_script(SINCE_2023)
    bucket.put_face(NOON)
    page.goto(bucket.url)
    expect(page.locator("#count")).to_have_text("1 face")
    expect(page.locator(".tile")).to_have_count(1)
    assert "light-dark(" not in GALLERY.read_text(encoding="utf-8")  # of 2024, and without a fallback


@needs_chromium
def test_an_error_of_the_page_is_not_told_as_the_bucket_s(bucket: Bucket, page: Page) -> None:
    page.add_init_script(
        """Object.defineProperty(Intl.DateTimeFormat.prototype, "format", {
            get: () => () => { throw new TypeError("broken on purpose") }})"""
    )
    bucket.put_face(NOON)
    page.goto(bucket.url)
    message = page.locator(".message:visible")
    expect(message.get_by_role("heading")).to_have_text("This page has a fault")
    expect(message).to_contain_text("broken on purpose")


@needs_chromium
def test_fits_a_phone(bucket: Bucket, page: Page) -> None:
    bucket.put_face(
        NOON, device="a-device-with-quite-a-long-name", camera="the-camera-above-the-second-door-on-the-left"
    )
    page.set_viewport_size(PHONE)
    page.goto(bucket.url)
    expect(page.locator(".tile .where").last).to_be_hidden()  # the only device
    bucket.put_face(NOON - minutes(1), device="another")
    page.reload()
    expect(page.locator(".tile .where").last).to_have_text("another")
    expect(page.locator(".tile .where").last).to_be_visible()
    page.locator(".tile").first.click()
    expect(page.get_by_role("button", name="Close")).to_be_in_viewport()
    image = page.locator("dialog img").bounding_box()
    assert image
    assert image["width"] > 0.9 * PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_on_the_wall_or_in_the_large_view(
    bucket: Bucket, page: Page, width: int, scheme: Literal["light", "dark"]
) -> None:
    for number in range(3):
        bucket.put_face(NOON - minutes(number))
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(bucket.url)
    expect(page.locator(".tile img")).not_to_have_count(0)
    page.evaluate(AXE.read_text())
    for large in (False, True):
        if large:
            page.locator(".tile").first.click()
            expect(page.locator("dialog")).to_be_visible()
        violations = page.evaluate("axe.run()")["violations"]
        assert [(it["id"], [node["html"] for node in it["nodes"]]) for it in violations] == []


# ---- The page's own promises ------------------------------------------------------------------------------


def with_hashes(page: str) -> str:
    """The page with the hashes of its style and its script in its Content-Security-Policy."""
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert body
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        page = re.sub(rf"{tag}-src 'sha256-[^']*'", f"{tag}-src 'sha256-{digest}'", page)
    return page


def test_policy_admits_this_style_and_this_script_only() -> None:
    page = GALLERY.read_text(encoding="utf-8")
    assert page == with_hashes(page), "renew the hashes: python tests/test_gallery.py hashes"
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy
    directives = dict(it.strip().split(" ", 1) for it in policy[1].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*", policy[1])


def take_screenshots() -> None:
    """Show two devices in docs/: the wall by day on a desk, and one face by night on a phone."""
    cameras = [("jetson-01", "door"), ("jetson-01", "yard"), ("pi-kitchen", "window"), ("jetson-01", "door")]
    with s3_server() as port, chromium() as browser:
        bucket = Bucket(port, "faces-demo")
        for number in range(90):
            begun = NOON + minutes(5 * number - 0.017 * number**2)
            for nth in range(1 + number * 5 % 9):
                at = begun + timedelta(seconds=nth * (1 + number % 7))
                image = jpeg(97 * number + nth, who=number * 7 % 11 % 2)
                bucket.put_face(at, *cameras[number * 7 % 4], image=image, visit=number)
        desk = browser.new_page(viewport=DESKTOP, locale="en-GB")
        phone = browser.new_page(viewport=PHONE, locale="en-GB", color_scheme="dark", device_scale_factor=2)
        for page, name in ((desk, "gallery-desktop.png"), (phone, "gallery-phone.png")):
            page.goto(bucket.url)
            expect(page.locator("#count")).to_contain_text("visits")
            if page is phone:
                page.locator(".tile").nth(2).click()
                expect(page.locator("#frame")).to_be_visible()
            page.wait_for_load_state("networkidle")
            picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
            with_accents = Image.new("RGB", (picture.width, picture.height + 200), "#157a5b")
            with_accents.paste("#4fd1a5", (0, 0, picture.width, 100))
            with_accents.paste(picture, (0, 200))  # so that these two get a place among the 256 colours
            few = picture.quantize(256, palette=with_accents.quantize(256), dither=Image.Dither.NONE)
            few.save(ROOT / "docs" / name, optimize=True)


def measure(count: int) -> None:
    """Print how long the page takes with so many faces, and how large it gets."""
    with s3_server() as port, chromium() as browser:
        bucket = Bucket(port, "measure")
        image = jpeg(3)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: bucket.put_face(NOON + timedelta(seconds=4 * n), image=image), range(count)))
        page = browser.new_page(viewport=DESKTOP)
        began = time.monotonic()
        page.goto(bucket.url)
        until(page, "document.querySelector('.tile img')?.naturalWidth > 0")
        print(f"first faces after {time.monotonic() - began:.2f} s")
        began = time.monotonic()
        most, seen = scroll_to_the_end(page, patience=900)
        elements = page.locator("*").count()
        print(f"{len(seen)} faces scrolled through in {time.monotonic() - began:.1f} s")
        print(f"never more than {most} tiles at once; {elements} elements at the end")


if __name__ == "__main__":
    if sys.argv[1:2] == ["hashes"]:
        GALLERY.write_text(with_hashes(GALLERY.read_text(encoding="utf-8")), encoding="utf-8")
    elif sys.argv[1:2] == ["screenshots"]:
        take_screenshots()
    elif sys.argv[1:2] == ["load"]:
        measure(int(sys.argv[2]))
    else:
        sys.exit(__doc__)
