"""Can any message name a key outside its prefix, or metadata that S3 does not take?"""

from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3sink.objects import image_format, metadata, rejected_object, stored_object, topic_path

LEVEL = st.text(max_size=30) | st.sampled_from(["", ".", "..", "...", "%", "%2E", "undated", "faces"])
JPEG = cv2.imencode(".jpg", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((8, 8, 3), 99, np.uint8))[1].tobytes()


@given(st.lists(LEVEL, max_size=60), st.text(), st.text())
def test_a_key_stays_below_its_device_and_within_1024_bytes(levels: list[str], id_: str, at: str) -> None:
    topic = "/".join(["faces", "jetson-01", *levels]).replace("\0", "")
    key = stored_object(topic, [("id", id_), ("captured_at", at)], JPEG).key
    assert key.startswith("faces/jetson-01/")
    assert len(key.encode()) <= 1024
    assert key.isascii()
    assert all(part not in ("", ".", "..") for part in key.split("/"))


@given(st.lists(LEVEL, min_size=1, max_size=20), st.lists(LEVEL, min_size=1, max_size=20))
def test_two_topics_never_share_a_path(one: list[str], other: list[str]) -> None:
    # a slash in a level would be two levels
    topics = ["/".join(["faces", *levels]) for levels in (one, other)]
    assert (topic_path("faces", topics[0]) == topic_path("faces", topics[1])) == (topics[0] == topics[1])


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=3000), max_size=30))
def test_metadata_are_headers_that_s3_takes(properties: dict[str, str]) -> None:
    kept = metadata(properties)
    for name, value in kept.items():
        assert name.isascii()
        assert name == name.lower()
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip()
    assert sum(len(name) + len(value) for name, value in kept.items()) <= 2048


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_no_bytes_can_break_the_look_at_an_image(tail: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xff\xe0\0\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        with suppress(ValueError):
            assert image_format(start + tail) in ("jpg", "png")


def test_real_images_are_known_and_every_cut_of_them_is_not() -> None:
    assert image_format(JPEG) == "jpg"
    assert image_format(PNG) == "png"
    for whole in (JPEG, PNG):
        for length in range(len(whole) - 1):
            with pytest.raises(ValueError, match=r"no JPEG|cut short|header"):
                image_format(whole[:length])


def test_control_characters_are_escaped() -> None:
    assert topic_path("faces", "faces/a\x01\x7f\n") == "faces/a%01%7F%0A"
    assert metadata({"note": "a\r\nX-Evil: 1"}) == {"note": "a%0D%0AX-Evil: 1"}


def test_a_sender_cannot_pass_off_a_reason_or_an_id_of_another_spelling() -> None:
    told = rejected_object(
        "faces/a/b", [("reason", "fine"), ("topic", "x"), ("ID", "2"), ("id", "1")], b"", "empty"
    )
    assert told.metadata == {"reason": "empty", "topic": "faces/a/b", "id": "1"}
