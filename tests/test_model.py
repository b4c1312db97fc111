"""Is the model fetched once, by its checksum, and done without where it cannot be had?"""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.model import fetch

SUM = hashlib.sha256(b"network").hexdigest()


def test_a_model_is_fetched_once_and_only_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"network")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/model"
        assert not fetch(url, "0" * 64, tmp_path / "face.onnx")
        assert not (tmp_path / "face.onnx").exists()
        assert not fetch(f"{url}-gone", SUM, tmp_path / "face.onnx")
        assert fetch(url, SUM, tmp_path / "face.onnx")
        server.shutdown()
    assert not fetch(url, SUM, tmp_path / "other.onnx"), "no internet"
    assert fetch(url, SUM, tmp_path / "face.onnx"), "it is there"
    assert (tmp_path / "face.onnx").read_bytes() == b"network"
