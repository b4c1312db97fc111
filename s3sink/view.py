"""Look at a private bucket: `python -m s3sink.view` shows its gallery on this machine alone, until Ctrl-C."""

import os
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import urllib3  # boto3's own
from botocore.exceptions import BotoCoreError

from service import log, read_settings, start

from .bucket import bucket_name
from .s3 import s3_client

# An object may be hostile, and so may another page in the browser: it neither runs here nor is embedded there
GUARDS = {"Content-Security-Policy": "sandbox", "Cross-Origin-Resource-Policy": "same-origin"}
KEPT = ("content-type", "cache-control", "last-modified", "x-amz-meta-")
LISTED_BY = ("prefix", "delimiter", "start-after", "continuation-token")  # all that the page asks by


class View(BaseHTTPRequestHandler):
    """Answers GET of the page, and of listings and objects under faces/; all else is refused."""

    s3: Any
    bucket: str
    http: urllib3.PoolManager

    def do_GET(self) -> None:
        status, headers, body = self.answer()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Give status, headers and body: of the bucket, to whom each read is signed with the user's own credentials."""
        path, _, query = self.path.partition("?")
        key = unquote(path).removeprefix(f"/{self.bucket}/")
        asked = {name.title().replace("-", ""): value for name, value in parse_qsl(query) if name in LISTED_BY}
        if self.headers["Host"] != f"127.0.0.1:{self.connection.getsockname()[1]}":
            return 403, {}, b""  # a web site whose name leads to this machine
        if key == "index.html":
            return 200, {}, Path(__file__).with_name(key).read_bytes()
        if not (key or asked.get("Prefix", "")).startswith("faces/"):
            return 403, {}, b""
        operation, params = ("get_object", {"Key": key}) if key else ("list_objects_v2", asked)
        try:
            url = self.s3.generate_presigned_url(operation, Params={"Bucket": self.bucket, **params})
            got = self.http.request("GET", url)
        except (BotoCoreError, urllib3.exceptions.HTTPError) as error:
            log("the store does not answer", error=error)
            return 502, {}, b""
        kept = {name: value for name, value in got.headers.items() if name.lower().startswith(KEPT)}
        return got.status, {**kept, **GUARDS}, got.data

    def log_request(self, *_: object) -> None:
        """Say nothing of what goes well."""


def main() -> None:
    """Show the gallery in a browser until Ctrl-C."""
    settings = read_settings(__doc__)
    View.bucket = bucket_name(settings)
    settings.refuse_bad()
    stop = start()
    View.s3 = s3_client(uploads=1)
    View.http = urllib3.PoolManager(ca_certs=os.environ.get("AWS_CA_BUNDLE"), timeout=20, maxsize=8)
    server = ThreadingHTTPServer(("127.0.0.1", 0), View)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{View.bucket}/index.html"
    log("looking into the bucket until Ctrl-C", gallery=url)
    webbrowser.open(url)
    stop.wait()


if __name__ == "__main__":
    main()
