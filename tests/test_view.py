"""Does `python -m s3sink.view` show a private bucket to whoever has its keys, and to no page but its own?"""

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import expect

from tests.pipeline import ROOT, eventually
from tests.stores import Store, running
from tests.test_gallery import chromium, jpeg, needs_chromium, until

KEY = "faces/jetson-01/cam0/2026/11/20/120000.000Z-0123456789abcdef.jpg"
HOSTILE = "faces/jetson-01/cam0/2026/11/20/115959.000Z-(x)'!* &%41é-0123456789abcdee.jpg"


class View:
    """The program, and the address that it has opened in a browser."""

    def __init__(self, store: Store, bucket: str, directory: Path, **env: str) -> None:
        self.bucket, opened = bucket, directory / "opened"
        opened.unlink(missing_ok=True)
        browser = directory / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
        browser.chmod(0o755)
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "s3sink.view"],
                env={**store.env(bucket), "BROWSER": str(browser), **env},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.url = eventually(lambda: opened.read_text().strip() if opened.exists() else "")
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)/", self.url)[1])  # type: ignore[index]

    def ask(self, path: str, method: str = "GET", host: str = "") -> tuple[int, dict[str, str], bytes]:
        """Ask as no browser would; `path` is below that of the bucket."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, f"/{self.bucket}/{path}", skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture(scope="module", params=["moto", "radosgw"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with running(request.param) as store:
        yield store


@pytest.fixture
def view(store: Store, tmp_path: Path, seed: int) -> Iterator[View]:
    """A private bucket with two faces, looked at."""
    name = f"private-{seed}"
    s3 = store.client()
    s3.create_bucket(Bucket=name)
    for number, key in enumerate((KEY, HOSTILE)):
        words = {"score": "0.9", "captured-at": "2026-11-20T12:00:00.000Z"}
        kind = {"ContentType": "image/jpeg", "CacheControl": "public, max-age=60"}
        s3.put_object(Bucket=name, Key=key, Body=jpeg(number), Metadata=words, **kind)
    s3.put_object(Bucket=name, Key="rejected/secret", Body=b"secret")
    view = View(store, name, tmp_path)
    yield view
    view.process.kill()
    view.process.wait()
    print(view.log.read_text())


def test_the_answers_are_those_of_the_bucket(store: Store, view: View) -> None:
    assert store.anonymous(f"{view.bucket}/{KEY}") == 403
    status, headers, body = view.ask(KEY)
    assert (status, body) == (200, jpeg(0))
    assert (headers["content-type"], headers["cache-control"]) == ("image/jpeg", "public, max-age=60")
    assert headers["x-amz-meta-score"] == "0.9"
    assert view.ask(quote(HOSTILE, safe="/'()!*"))[2] == jpeg(1)
    status, _, listing = view.ask("?list-type=2&encoding-type=url&prefix=faces/&delimiter=/")
    assert status == 200
    assert re.findall(rb"<Prefix>(faces/[^<]+)</Prefix>", listing) == [b"faces/jetson-01/"]
    first = store.client().list_objects_v2(Bucket=view.bucket, Prefix="faces/", MaxKeys=1)
    query = f"?list-type=2&prefix=faces/&continuation-token={quote(first['NextContinuationToken'], safe='')}"
    assert view.ask(query)[2].count(b"<Key>") == 1
    listed = view.ask(f"?list-type=2&prefix=faces/&start-after={HOSTILE[:32]}115959.1")[2]
    assert [unquote(key) for key in re.findall(r"<Key>([^<]+)</Key>", listed.decode())] == [KEY]
    assert view.ask("faces/none.jpg")[0] == 404


def test_nothing_else_is_answered(view: View) -> None:
    assert view.ask("index.html")[0] == 200
    for path in (
        "rejected/secret",
        "?list-type=2",
        "?list-type=2&prefix=rejected/",
        "?list-type=2&prefix=faces",
        "?list-type=2&prefix=faces/&prefix=rejected/",
        "?policy",
        "view.py",
        "../index.html",
        "",
    ):
        assert view.ask(path)[0] == 403, path
    other = "&max-keys=0&bucket=another&expected-bucket-owner=1"  # what the page never asks
    listed = view.ask(f"?prefix=faces/{other}")[2]
    assert f"<Name>{view.bucket}</Name>".encode() in listed
    assert listed.count(b"<Key>") == 2
    for method in ("HEAD", "PUT", "POST", "DELETE", "OPTIONS"):
        assert view.ask(KEY, method)[0] == 501, method


def test_a_web_site_whose_name_leads_here_gets_nothing(view: View) -> None:
    for host in ("evil.example", f"evil.example:{view.port}", f"127.0.0.1.evil.example:{view.port}", "127.0.0.1"):
        for path in ("index.html", KEY, "?list-type=2&prefix=faces/"):
            assert view.ask(path, host=host)[0] == 403, host


def test_an_object_cannot_act_in_the_page_s_name(store: Store, view: View) -> None:
    store.client().put_object(Bucket=view.bucket, Key=KEY, Body=b"<script>", ContentType="text/html")
    headers = view.ask(KEY)[1]
    assert headers["content-security-policy"] == "sandbox"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_it_listens_on_this_machine_alone(view: View) -> None:
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{view.process.pid}/net/{table}").read_text().splitlines()
        if line.split()[1].endswith(f":{view.port:04X}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{view.port:04X}"]


def test_ctrl_c_ends_it_without_a_word(view: View) -> None:
    view.ask(KEY)
    view.process.send_signal(signal.SIGINT)
    assert view.process.wait(10) == 0
    assert view.log.read_text().splitlines() == [f"looking into the bucket until Ctrl-C: gallery={view.url}"]


def test_a_store_that_is_away_and_a_bucket_that_is_not_there_are_told(store: Store, tmp_path: Path) -> None:
    view = View(store, "none", tmp_path)
    assert view.ask(KEY)[0] == 404
    assert b"NoSuchBucket" in view.ask("?list-type=2&prefix=faces/")[2]
    view.process.kill()
    away = View(store, "none", tmp_path, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1")
    assert away.ask(KEY)[0] == 502
    assert "the store does not answer: error=" in away.log.read_text()
    assert "Signature=" not in away.log.read_text()
    away.process.kill()


@needs_chromium
def test_a_browser_shows_the_private_faces(view: View) -> None:
    with chromium() as browser, browser.new_context() as context:
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(view.url)
        expect(page.locator(".tile img")).to_have_count(2)
        until(page, "[...document.querySelectorAll('.tile img')].every(image => image.naturalWidth)")
        page.locator(".tile").first.click()
        expect(page.locator("dl")).to_contain_text("0.9 of 1")
        assert not complaints
        assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {f"127.0.0.1:{view.port}"}


def test_a_profile_of_aws_does(store: Store, tmp_path: Path, seed: int) -> None:
    name = f"profile-{seed}"
    store.client().create_bucket(Bucket=name)
    store.client().put_object(Bucket=name, Key=KEY, Body=jpeg(0))
    config = tmp_path / "config"
    key, secret = store.keys.values()
    config.write_text(
        f"[profile me]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\nregion = us-east-1\n"
        f"endpoint_url = {store.url}\n"
    )
    no_keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"), "")
    mine = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "me", "AWS_ENDPOINT_URL_S3": ""}
    view = View(store, name, tmp_path, **no_keys, **mine)
    assert view.ask(KEY)[2] == jpeg(0)
    view.process.kill()
