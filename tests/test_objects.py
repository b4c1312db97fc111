"""Can any message name a key outside its prefix, or metadata that S3 does not take?"""

from contextlib import suppress
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3sink.objects import CONTRACT, image_format, metadata, rejected_object, stored_object, time_path, topic_path
from s3sink.store import PROBE

LEVEL = (
    st.text(max_size=30)
    | st.text("ü", min_size=40, max_size=90)
    | st.sampled_from(["", ".", "..", "...", "%", "%2E", "undated", "faces"])
)
JPEG = cv2.imencode(".jpg", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()


@given(st.lists(LEVEL, max_size=60), st.text(), st.text())
def test_a_key_stays_below_its_device_and_within_1024_bytes(levels: list[str], id_: str, at: str) -> None:
    topic = "/".join(["faces", "jetson-01", *levels]).replace("\0", "")
    key = stored_object(topic, {"id": id_, "captured_at": at}, JPEG)["Key"]
    assert key.startswith("faces/jetson-01/")
    assert len(key.encode()) <= 1024
    assert key.isascii()
    assert all(part not in ("", ".", "..") for part in key.split("/"))
    assert all(len(part) <= 255 for part in key.split("/"))


@given(st.lists(LEVEL, min_size=1, max_size=20), st.lists(LEVEL, min_size=1, max_size=20))
def test_two_topics_never_share_a_path(one: list[str], other: list[str]) -> None:
    # a slash in a level would be two levels
    topics = ["/".join(["faces", *levels]) for levels in (one, other)]
    assert (topic_path("faces", topics[0]) == topic_path("faces", topics[1])) == (topics[0] == topics[1])


@given(st.dictionaries(st.sampled_from(CONTRACT), st.text(max_size=3000)))
def test_metadata_are_headers_that_s3_takes(properties: dict[str, str]) -> None:
    kept = rejected_object("faces/a", properties, b"", "why")["Metadata"]
    for name, value in kept.items():
        assert name.replace("-", "").isalpha()
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip() != ""
        unquote(value, errors="strict")  # no character is cut in two
    assert sum(len(name) + len(value) for name, value in kept.items()) <= 2048


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_no_bytes_can_break_the_look_at_an_image(tail: bytes) -> None:
    for start in (
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xff\xff\xe0\0\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"RIFF1234WEBP",
    ):
        with suppress(ValueError):
            assert image_format(start + tail)[0] in ("jpg", "png", "webp")


def test_real_images_are_known_and_measured() -> None:
    pixels = np.full((9, 17, 3), 99, np.uint8)
    for extension in ("jpg", "png", "webp"):
        for quality in (80, 101):  # of WebP above 100: without loss
            image = cv2.imencode(f".{extension}", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
            assert image_format(image) == (extension, 17, 9)
    lossy, lossless = (cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, q])[1].tobytes() for q in (80, 101))
    assert (lossy[12:16], lossless[12:16]) == (b"VP8 ", b"VP8L")
    extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + bytes([16, 0, 0, 8, 0, 0]) + lossy[12:]
    for image in (lossy, lossless, extended):
        assert image_format(image) == ("webp", 17, 9)
    with pytest.raises(ValueError, match="16777216 x 16777216 pixels"):
        image_format(extended[:24] + b"\xff" * 6)


@pytest.mark.parametrize("behind", [b"\n", b"\0" * 4000, b"\0\0\0\x18ftypmp42" + bytes(5000)])
def test_what_follows_an_image_does_not_make_it_none(behind: bytes) -> None:
    assert image_format(JPEG + behind)[0] == "jpg"
    assert image_format(PNG + behind)[0] == "png"


@pytest.mark.parametrize("device", ["probe", "(probe)"])
def test_no_device_lies_at_the_probe_s_key(device: str) -> None:
    assert not f"{topic_path('faces', f'faces/{device}/cam0')}/".startswith(f"{PROBE['Key']}/")


def test_control_characters_are_escaped() -> None:
    assert topic_path("faces", "faces/a\x01\x7f\n") == "faces/a%01%7F%0A"
    assert metadata({"score": "a\r\nX-Evil: 1"}, CONTRACT) == {"score": "a%0D%0AX-Evil: 1"}


@pytest.mark.parametrize(
    "captured_at",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-11-22T10:20:30.Z",
        "2026-11-22T10:20:30",
        "2026-11-22T10:20:30+99:99",
        "2026-11-22T10:60:30Z",
    ],
)
def test_what_is_no_time_makes_an_undated_object(captured_at: str) -> None:
    key = stored_object("faces/a/b", {"id": "0" * 16, "captured_at": captured_at}, JPEG)["Key"]
    assert key.startswith("faces/a/b/undated/")


def test_a_leap_second_and_the_first_year_have_a_place() -> None:
    assert time_path("2016-12-31T23:59:60Z") == "2016/12/31/235959.000Z"
    assert time_path("0001-01-01T00:00:00Z") == "0001/01/01/000000.000Z"


def test_a_sender_cannot_pass_off_a_reason_or_an_id_of_another_spelling() -> None:
    told = rejected_object("faces/a/b", {"reason": "fine", "topic": "x", "ID": "2", "id": "1"}, b"", "empty")
    assert told["Metadata"] == {"reason": "empty", "topic": "faces/a/b", "id": "1"}
