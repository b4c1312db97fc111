"""Find the faces in a frame, and make of each one the picture that is sent.

All parameters were measured against the loop that everybody writes first; `make bench` prints the comparison.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import cv2.data
import numpy as np
from cv2.typing import MatLike

Box = tuple[int, int, int, int]
Look = MatLike  # see look()

# The brokers refuse packets over 1,000,000 bytes (max_packet_size); the rest is for topic and properties.
MAX_BYTES = 900_000


class Face(NamedTuple):
    """One detection in a frame."""

    box: Box  # x, y, w, h in frame pixels, inside the frame, never empty
    score: float  # YuNet: confidence, 0 to 1; Haar: how many raw hits agree on the box, 3 or more


Detect = Callable[[MatLike], list[Face]]


def clip(box: tuple[float, float, float, float], width: int, height: int) -> Box:
    """The part of a box that lies in a frame of `width` x `height` px, in whole pixels and at least 1 x 1."""
    x, y, w, h = box
    left = min(max(round(x), 0), width - 1)
    top = min(max(round(y), 0), height - 1)
    right = max(min(round(x + w), width), left + 1)
    bottom = max(min(round(y + h), height), top + 1)
    return left, top, right - left, bottom - top


def shrink(image: MatLike, width: int) -> MatLike:
    """The image at `width` px wide with its aspect kept; one that is no wider comes back as it is."""
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    if width >= image.shape[1]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def scaled(boxes: Iterable[Iterable[float]], scores: Iterable[float], small: MatLike, frame: MatLike) -> list[Face]:
    """Faces in `frame` for boxes (N, 4) that were found in `small`, a reduced copy of it."""
    height, width = frame.shape[:2]
    back = width / small.shape[1], height / small.shape[0]
    return [
        Face(clip((x * back[0], y * back[1], w * back[0], h * back[1]), width, height), float(score))
        for (x, y, w, h), score in zip(boxes, scores, strict=True)
    ]


def haar(width: int, min_score: float) -> Detect:
    """A detector by OpenCV's own cascade for frontal faces, on gray at most `width` px wide."""
    if not hasattr(cv2, "CascadeClassifier"):
        raise ValueError(f"FACE_MODEL: OpenCV {cv2.__version__} has no Haar cascade; `make model`, or install 4.x")
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")

    def detect(frame: MatLike) -> list[Face]:
        gray = shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), width)
        boxes, hits = cascade.detectMultiScale2(gray, scaleFactor=1.2, minNeighbors=3, minSize=(24, 24))
        return [face for face in scaled(boxes, hits, gray, frame) if face.score >= min_score]

    return detect


def own_score(model: bytes) -> float:
    """The least score that counts as a face: the two YuNet networks have each its own scale.

    yunet_s (2023mar, and 2026may, the same weights with a free input size) has 53 convolutions, yunet_n 59.
    """
    return 0.85 if model.count(b'"\x04Conv') == 53 else 0.80  # "Conv" in ONNX's field of a node's operator


def yunet(model: str, width: int, min_score: float) -> Detect:
    """A detector by the YuNet network in the file `model`, on frames at most `width` px wide."""
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"FACE_MODEL={model}: no such file; `make model`, or haar for the cascade")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(f"FACE_MODEL={model}: a Git LFS pointer of {len(data)} bytes; `git lfs pull` the model")
    try:
        raw = np.frombuffer(data, np.uint8)
        score = min_score or own_score(data)
        network = cv2.FaceDetectorYN.create("onnx", raw, raw[:0], (64, 64), score_threshold=score)
        network.detect(np.zeros((64, 64, 3), np.uint8))  # another kind of network loads, but does not run
    except cv2.error as error:
        raise ValueError(
            f"FACE_MODEL={model}: no YuNet model, or cut short ({len(data)} bytes); download it again"
        ) from error

    def detect(frame: MatLike) -> list[Face]:
        small = shrink(frame, width)
        h, w = small.shape[:2]
        # With a side of 32 px or less OpenCV 4.14 reads memory that it never wrote, and finds faces there
        padded = cv2.copyMakeBorder(small, 0, max(64 - h, 0), 0, max(64 - w, 0), cv2.BORDER_CONSTANT)
        network.setInputSize((padded.shape[1], padded.shape[0]))
        _, found = network.detect(padded)
        return [] if found is None else scaled(found[:, :4], found[:, 14], small, frame)

    return detect


def open_detector(model: str = "haar", width: int = 640, min_score: float = 0) -> Detect:
    """A function from a frame (H, W, 3; uint8; BGR) to the faces in it.

    `model` is a YuNet file, or "haar". Frames wider than `width` px are reduced to that first. `min_score` is
    the least that counts as a face (0: the model's own). ValueError, in one line that names the file and the
    remedy, when it is missing or no such model. OpenCV is set to one thread, for the whole process: the other
    cores belong to the broker and the decoder.
    """
    cv2.setNumThreads(1)
    return haar(width, min_score) if model == "haar" else yunet(model, width, min_score)


def cut(frame: MatLike, box: Box, margin: float, below: float) -> tuple[MatLike, int, int]:
    """The part of a frame with so many box sides around a box, and its left and top; never empty."""
    x, y, w, h = box
    around = x - w * margin, y - h * margin, w + 2 * w * margin, h + h * (margin + below)
    left, top, width, height = clip(around, frame.shape[1], frame.shape[0])
    return frame[top : top + height, left : left + width], left, top


def crop(frame: MatLike, box: Box, margin: float = 0.2, max_side: int = 512) -> MatLike:
    """The face with `margin` around it, scaled down so that no side is over `max_side` px, never up."""
    image, _, _ = cut(frame, box, margin, margin)
    return shrink(image, max(max_side * image.shape[1] // max(image.shape[:2]), 1))


def sharpness(image: MatLike) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) at 32 x 32 px.

    So sizes compare, and the noise of a sensor, which is finer than that, does not count as sharp.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    # INTER_AREA makes squares with sharp edges of the pixels when it enlarges
    smooth = cv2.INTER_AREA if max(gray.shape) > 32 else cv2.INTER_LINEAR
    return float(cv2.Laplacian(cv2.resize(gray, (32, 32), interpolation=smooth), cv2.CV_32F).var())


def look(frame: MatLike, box: Box) -> Look:
    """What tells one person from another at once: an HSV histogram, 8 x 4 x 4, of head, hair and chest."""
    body, _, _ = cut(frame, box, 0.3, 1.5)
    hsv = cv2.cvtColor(cv2.resize(body, (48, 48), interpolation=cv2.INTER_NEAREST), cv2.COLOR_BGR2HSV)
    return cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])


def encode(
    image: MatLike,
    format: str = "jpg",  # noqa: A002 (the setting's name)
    quality: int = 90,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """The image as a file of type `format` (jpg or png; `quality` is of jpg, 0 to 100).

    Scaled down as far as it takes to fit into `max_bytes`. ValueError for what cannot be encoded.
    """
    if format not in ("jpg", "png"):
        raise ValueError(f"{format}: no image format of ours; jpg or png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else []
    try:
        while len(data := cv2.imencode(f".{format}", image, options)[1].tobytes()) > max_bytes and len(image) > 1:
            image = shrink(image, round(image.shape[1] * 0.7))
    except cv2.error as error:
        raise ValueError(f"an image of shape {image.shape} and type {image.dtype} is no {format}") from error
    return data
