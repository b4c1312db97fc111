"""Does a camera give a face on first sight and then seldom, or every detection when asked to?"""

import json
import re
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from detector.live import Frame
from detector.spool import Spool
from detector.watch import Options, Watch
from service import Settings
from tests.test_faces import model

START = 1_790_000_000.125  # s since the epoch


def watch(tmp_path: Path, **settings: str) -> Watch:
    """Watch with settings as a user would give them."""
    checked = Settings(settings)
    options = Options(checked)
    assert checked.bad == []
    return Watch(options, Spool(tmp_path / "cam0.db", 10**9))


@pytest.mark.parametrize(("interval", "faces"), [("1", 2), ("0", 50)])
def test_a_still_face_for_two_seconds(tmp_path: Path, photo: np.ndarray, interval: str, faces: int) -> None:
    seen = watch(tmp_path, FACE_INTERVAL=interval)
    for number in range(50):
        seen.look(Frame(photo, START + number / 25))
    # on first sight, and where the gate is forced once a second
    assert abs(seen.spool.count - faces) <= 1
    assert seen.counts == {"frames": 50, "faces": seen.spool.count}


def test_the_whole_frame_is_looked_at_once_a_second_and_when_a_face_is_missing(
    tmp_path: Path, photo: np.ndarray
) -> None:
    seen = watch(tmp_path, FACE_MODEL=model("yunet_n_640_640.onnx"))
    seen.detect = Mock(side_effect=seen.detect)
    for at, left, looks in ((0, 0, 1), (0.2, 10, 1), (0.4, 20, 1), (0.6, 700, 2), (0.8, 710, 2), (1.7, 720, 3)):
        frame = np.zeros((512, 1280, 3), np.uint8)
        frame[:, left : left + 512] = photo
        seen.look(Frame(frame, START + at))
        (face,) = seen.faces
        assert abs(face.box[0] - left - 178) < 30
        assert seen.detect.call_count == looks, at


def test_what_a_face_message_says_of_itself(tmp_path: Path, photo: np.ndarray) -> None:
    seen = watch(tmp_path, CAMERA_NAME="door", FACE_FORMAT="png", FACE_MARGIN="0")
    seen.look(Frame(photo, START))
    face = seen.spool.get(1)
    assert face
    words = face.properties
    assert set(words) == {
        "id", "camera", "captured_at", "box", "frame_size", "score", "sharpness", "track", "schema",
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{16}", words["id"])
    assert (words["camera"], words["schema"], words["track"]) == ("door", "1", "1")
    assert words["captured_at"] == "2026-09-21T14:13:20.125Z"
    assert words["frame_size"] == "512x512"
    assert json.dumps(words).isascii()
    x, y, w, h = (int(side) for side in words["box"].split(","))
    assert face.content_type == "image/png"
    picture = cv2.imdecode(np.frombuffer(face.payload, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert np.array_equal(picture, photo[y : y + h, x : x + w])


@pytest.mark.parametrize(
    ("settings", "faces"),
    [
        ({"FACE_ZONE": "0,0 1,0 1,0.5 0,0.5"}, 1),  # the photo's face is in its upper half
        ({"FACE_ZONE": "0,.5 1,.5 1,1 0,1"}, 0),
        ({"FACE_ZONE": "0,.5 1,.5 1,1 0,1; 0,0 1,0 .5,.9"}, 1),
        ({"FACE_MIN_SIZE": "40"}, 1),
        ({"FACE_MIN_SIZE": "300"}, 0),
        ({"FACE_MIN_SCORE": "900"}, 0),
    ],
)
def test_only_faces_that_are_wanted_are_cut(
    tmp_path: Path, photo: np.ndarray, settings: dict[str, str], faces: int
) -> None:
    seen = watch(tmp_path, FACE_MODEL="haar", **settings)
    seen.look(Frame(photo, START))
    assert seen.counts["faces"] == faces


@pytest.mark.parametrize("zone", ["0,0 1,1", "0,0 1,0 2,2", "all", "0,0 1,0 1,1;"])
def test_a_zone_that_is_none_is_refused_by_name(zone: str) -> None:
    settings = Settings({"FACE_ZONE": zone})
    Options(settings)
    assert settings.bad
    assert settings.bad[0].startswith(f"FACE_ZONE={zone}: give polygons")


def test_the_ids_of_one_visit_begin_alike(tmp_path: Path, photo: np.ndarray) -> None:
    seen = watch(tmp_path, FACE_INTERVAL="0")
    for number in range(3):
        seen.look(Frame(photo, START + number))
    faces = [seen.spool.get(seq) for seq in seen.spool.after(0, 10)]
    ids = [face.properties["id"] for face in faces if face]
    assert len(set(ids)) == 3
    assert len({id_[:8] for id_ in ids}) == 1
