"""Find the faces in a frame, and make of each one the picture that is sent.

All parameters were measured against the loop that everybody writes first; `make bench` prints the comparison.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import cv2.data
import numpy as np
from cv2.typing import MatLike

Box = tuple[int, int, int, int]

# The brokers refuse packets over 1,000,000 bytes (max_packet_size); the rest is for topic and properties.
MAX_BYTES = 900_000

# The least score that counts as a face, by sha256 of the model: each network has its own scale.
SCORES = {
    "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31": 0.80,  # yunet_n_640_640
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": 0.85,  # yunet_2023mar
}
SCORE_OF_OTHERS = 0.80


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


def scaled(
    boxes: Iterable[Iterable[float]], scores: Iterable[float], small: MatLike, frame: MatLike
) -> list[Face]:
    """Faces in `frame` for boxes (N, 4) that were found in `small`, a reduced copy of it."""
    height, width = frame.shape[:2]
    back = width / small.shape[1], height / small.shape[0]
    return [
        Face(clip((x * back[0], y * back[1], w * back[0], h * back[1]), width, height), float(score))
        for (x, y, w, h), score in zip(boxes, scores, strict=True)
    ]


def haar(width: int) -> Detect:
    """A detector by OpenCV's own cascade for frontal faces, on gray at most `width` px wide."""
    name = cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml"
    cascade = cv2.CascadeClassifier(name)
    if cascade.empty():
        raise ValueError(f"{name}: not a Haar cascade; install opencv-python again (4.x: 5.0 has none)")

    def detect(frame: MatLike) -> list[Face]:
        gray = shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), width)
        boxes, hits = cascade.detectMultiScale2(gray, scaleFactor=1.2, minNeighbors=3, minSize=(24, 24))
        return scaled(boxes, hits, gray, frame)

    return detect


def yunet(model: str, width: int) -> Detect:
    """A detector by the YuNet network in the file `model`, on frames at most `width` px wide."""
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"FACE_MODEL={model}: no such file; leave it empty for the Haar cascade")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"FACE_MODEL={model}: a Git LFS pointer of {len(data)} bytes; `git lfs pull` the model"
        )
    score = SCORES.get(hashlib.sha256(data).hexdigest(), SCORE_OF_OTHERS)
    try:
        raw = np.frombuffer(data, np.uint8)
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


def open_detector(model: str = "", width: int = 640) -> Detect:
    """A function from a frame (H, W, 3; uint8; BGR) to the faces in it.

    `model` is a YuNet file; empty means the Haar cascade. Frames wider than `width` px are reduced to that
    first (for the cascade, which is slower: to three quarters of it). ValueError, in one line that names the
    file and the remedy, when it is missing or no such model.

    OpenCV is set to one thread, for the whole process: at ten detections a second one core of a Raspberry Pi
    is enough, and the others belong to the broker and the decoder.
    """
    cv2.setNumThreads(1)
    return yunet(model, width) if model else haar(width * 3 // 4)


def crop(frame: MatLike, box: Box, margin: float = 0.2, max_side: int = 512) -> MatLike:
    """The face with `margin` (a fraction of the box's side) around it, as far as the frame goes.

    Scaled down so that the longest side is `max_side` px, never up; never empty.
    """
    x, y, w, h = box
    dx, dy = w * margin, h * margin
    left, top, width, height = clip((x - dx, y - dy, w + 2 * dx, h + 2 * dy), frame.shape[1], frame.shape[0])
    image = frame[top : top + height, left : left + width]
    scale = max_side / max(width, height)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def sharpness(image: MatLike) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) at 96 x 96 px, so that sizes compare."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    # INTER_AREA makes squares with sharp edges of the pixels when it enlarges
    smooth = cv2.INTER_AREA if max(gray.shape) > 96 else cv2.INTER_LINEAR
    gray = cv2.resize(gray, (96, 96), interpolation=smooth)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


def encode(image: MatLike, format: str = "jpg", quality: int = 90) -> bytes:  # noqa: A002 (the setting's name)
    """The image as a file of type `format` (jpg or png; `quality` is of jpg, 0 to 100).

    Scaled down as far as it takes to fit into MAX_BYTES. ValueError for what cannot be encoded.
    """
    if format not in ("jpg", "png"):
        raise ValueError(f"{format}: no image format of ours; jpg or png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else []
    try:
        while len(data := cv2.imencode(f".{format}", image, options)[1].tobytes()) > MAX_BYTES:
            image = shrink(image, round(image.shape[1] * 0.7))
    except cv2.error as error:
        raise ValueError(f"an image of shape {image.shape} and type {image.dtype} is no {format}") from error
    return data
