"""Does the detector find faces of every size and place, and make of each a picture that the brokers take?"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike
from hypothesis import given
from hypothesis import strategies as st

from detector.faces import MAX_BYTES, Box, Detect, clip, crop, encode, open_detector, own_score, sharpness

MODELS = Path(os.environ.get("FACE_MODELS", Path(__file__).parents[2] / "shared" / "models"))
PHOTO_FACE = (178, 65, 91, 111)  # x, y, w, h of the face in `photo`, by YuNet


def model(name: str) -> str:
    path = MODELS / name
    if not path.is_file():
        pytest.skip(f"no {path}; set FACE_MODELS to a folder with YuNet models")
    return str(path)


@pytest.fixture(params=["haar", "yunet_n_640_640.onnx", "face_detection_yunet_2023mar.onnx"])
def detect(request: pytest.FixtureRequest) -> Detect:
    return open_detector("haar" if request.param == "haar" else model(request.param))


def centre(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


@pytest.mark.parametrize("size", [(512, 512), (1280, 720), (1921, 1081), (720, 1280)])
def test_the_box_is_in_frame_pixels_whatever_the_size(detect: Detect, photo: MatLike, size: tuple[int, int]) -> None:
    scale = min(size) / 512
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    large = cv2.resize(photo, None, fx=scale, fy=scale)
    frame[-large.shape[0] :, -large.shape[1] :] = large  # bottom right, where a wrong scale shows most
    corner = frame.shape[1] - large.shape[1], frame.shape[0] - large.shape[0]
    (face,) = detect(frame)
    expected = [c + scale * middle for c, middle in zip(corner, centre(PHOTO_FACE), strict=True)]
    assert centre(face.box) == pytest.approx(expected, abs=20 * scale)
    assert 80 * scale < face.box[3] < 150 * scale


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (3, 700), (300, 2), (2000, 2)])
def test_a_frame_too_small_for_a_face_has_none(detect: Detect, size: tuple[int, int]) -> None:
    assert detect(np.full((size[1], size[0], 3), 127, np.uint8)) == []


def test_frames_may_change_size_from_one_to_the_next(detect: Detect, photo: MatLike) -> None:
    for scale in (1, 2, 0.7, 1):
        assert len(detect(cv2.resize(photo, None, fx=scale, fy=scale))) == 1


def test_a_face_at_the_edge_of_the_frame_has_its_box_inside(photo: MatLike) -> None:
    detect = open_detector(model("yunet_n_640_640.onnx"))
    cut = np.ascontiguousarray(photo[:, 200:])  # through the left eye
    (face,) = detect(cut)
    x, y, w, h = face.box
    assert 0 <= x < 5
    assert y >= 0
    assert crop(cut, face.box).shape[:2] == (h + 2 * round(h * 0.2), x + w + round(w * 0.2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:25a6\nsize 317466\n", "a Git LFS pointer"),
        (b"\x08\x08\x12\x07not a network", "download it again"),
        (b"", "download it again"),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "face.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"FACE_MODEL={path}.*{reason}") as refused:
        open_detector(str(path))
    assert "\n" not in str(refused.value)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    whole = Path(model("yunet_n_640_640.onnx")).read_bytes()
    path = tmp_path / "face.onnx"
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="cut short"):
        open_detector(str(path))


numbers = st.floats(-5000, 5000)


@given(box=st.tuples(numbers, numbers, numbers, numbers), width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_a_clipped_box_lies_in_the_frame_and_is_not_empty(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    x, y, w, h = clip(box, width, height)
    assert 0 <= x < x + w <= width
    assert 0 <= y < y + h <= height


def test_a_crop_has_its_margin_and_its_place(photo: MatLike) -> None:
    assert np.array_equal(crop(photo, (100, 200, 50, 100), margin=0.2), photo[180:320, 90:160])
    assert np.array_equal(crop(photo, (0, 0, 50, 100), margin=0.2), photo[:120, :60])
    assert np.array_equal(crop(photo, (500, 500, 12, 12), margin=0), photo[500:, 500:])


def test_a_crop_is_scaled_down_but_never_up(photo: MatLike) -> None:
    large = cv2.resize(photo, (4000, 2000))
    assert crop(large, (1000, 500, 2000, 1000), 0, max_side=512).shape == (256, 512, 3)
    assert crop(photo, (100, 100, 30, 40), 0, max_side=512).shape == (40, 30, 3)
    assert crop(large, (0, 0, 4000, 1), 0, max_side=16).shape == (1, 16, 3)


def test_sharpness_falls_with_blur_and_with_size(photo: MatLike) -> None:
    face = crop(photo, PHOTO_FACE)
    assert sharpness(face) > 2 * sharpness(cv2.GaussianBlur(face, (0, 0), 2))
    small = cv2.resize(face, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert sharpness(face) > sharpness(small)


def test_noise_does_not_look_sharp(photo: MatLike, seed: int) -> None:
    face = crop(photo, PHOTO_FACE)
    blurred = cv2.GaussianBlur(face, (0, 0), 4) + np.random.default_rng(seed).normal(0, 12, face.shape)
    noisy = blurred.clip(0, 255).astype(np.uint8)
    print(f"sharp {sharpness(face):.0f}, blurred with a sensor's noise {sharpness(noisy):.0f}")
    assert sharpness(face) > 2 * sharpness(noisy)


@pytest.mark.parametrize(
    ("name", "score"), [("yunet_n_640_640.onnx", 0.80), ("face_detection_yunet_2023mar.onnx", 0.85)]
)
def test_each_network_has_its_own_score_by_what_it_is_made_of(name: str, score: float) -> None:
    data = Path(model(name)).read_bytes()
    assert own_score(data) == score
    assert own_score(data.replace(b"pytorch", b"another")) == score, "whoever exported it"


def test_without_a_cascade_in_opencv_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(ValueError, match="no Haar cascade; `make model`"):
        open_detector("haar")


@pytest.mark.parametrize("max_bytes", [1, 2000, 50_000])
def test_a_broker_that_takes_less_gets_less(photo: MatLike, max_bytes: int) -> None:
    assert len(encode(photo, "jpg", 90, max_bytes)) <= max(max_bytes, 1000)
    tall = np.ascontiguousarray(photo[:, 200:250])  # becomes 1 px wide before it is 1 px high
    assert len(encode(tall, "jpg", 90, max_bytes)) <= max(max_bytes, 1000)


@pytest.mark.parametrize("file_format", ["jpg", "png"])
def test_an_encoded_crop_always_fits_the_brokers(file_format: str, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (2000, 2000, 3), np.uint8)  # compresses worst
    data = encode(noise, file_format, 100)
    assert 100_000 < len(data) <= MAX_BYTES
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def test_png_keeps_every_pixel_and_jpg_is_a_jpeg(photo: MatLike) -> None:
    decoded = cv2.imdecode(np.frombuffer(encode(photo, "png"), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(decoded, photo)
    assert encode(photo, "jpg").startswith(b"\xff\xd8\xff")
    assert len(encode(photo, "jpg", 50)) < len(encode(photo, "jpg", 95))
