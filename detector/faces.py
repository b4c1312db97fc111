"""Find the faces in a frame, and make of each the picture that is sent. `make bench` prints what it costs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike

Box = tuple[int, int, int, int]
Look = MatLike  # see look()

# The brokers refuse packets over 1,000,000 bytes (max_packet_size); the rest is for topic and properties.
MAX_BYTES = 900_000


class Face(NamedTuple):
    box: Box  # x, y, w, h in frame pixels, inside the frame, never empty
    score: float  # YuNet: confidence, 0 to 1; Haar: how many raw hits agree on the box, 3 or more


class ModelError(ValueError):
    status = 2  # as for any bad setting


Detect = Callable[[MatLike], list[Face]]
Model = Callable[[MatLike], Iterable[MatLike]]  # a row for each face in an image: x, y, w, h ... score


def clip(box: Iterable[float], width: int, height: int) -> Box:
    """The part of a box that lies in a frame of `width` x `height` px, in whole pixels and at least 1 x 1."""
    x, y, w, h = box
    corners = np.rint([x, y, x + w, y + h]).clip(0, [width - 1, height - 1, width, height])
    left, top, right, bottom = corners.astype(int).tolist()
    return left, top, max(right - left, 1), max(bottom - top, 1)


def shrink(image: MatLike, width: int) -> MatLike:
    """The image at `width` px wide with its aspect kept; never enlarged."""
    width = min(width, image.shape[1])
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def haar() -> Model:
    if not hasattr(cv2, "CascadeClassifier"):
        raise ModelError(f"FACE_MODEL: OpenCV {cv2.__version__} has no Haar cascade; `make model`, or install 4.x")
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).with_name("data") / "haarcascade_frontalface_alt2.xml"))

    def find(image: MatLike) -> Iterable[MatLike]:
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return np.column_stack(cascade.detectMultiScale2(gray, scaleFactor=1.2, minNeighbors=3, minSize=(24, 24)))

    return find


def own_score(model: bytes) -> float:
    """The least score that counts as a face, which is each network's own: yunet_s has 53 convolutions, yunet_n 59."""
    # yunet_s is 2023mar, and 2026may, the same weights with a free input size
    return 0.85 if model.count(b'"\x04Conv') == 53 else 0.80  # "Conv" in ONNX's field of a node's operator


def yunet(model: str, min_score: float) -> Model:
    try:
        data = np.fromfile(model, np.uint8)
        network = cv2.FaceDetectorYN.create("onnx", data, data[:0], (64, 64), min_score or own_score(data.tobytes()))
        network.detect(np.zeros((64, 64, 3), np.uint8))  # another kind of network loads, but does not run
    except (OSError, cv2.error) as error:
        reason = getattr(error, "strerror", "no YuNet model, cut short, or a Git LFS pointer")
        raise ModelError(f"FACE_MODEL={model}: {reason}; download it again, `make model`, or say haar") from error

    def find(image: MatLike) -> Iterable[MatLike]:
        # With a side of 32 px or less OpenCV 4.14 reads memory that it never wrote, and finds faces there
        below, right = (max(64 - side, 0) for side in image.shape[:2])
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
        network.setInputSize(padded.shape[1::-1])
        _, found = network.detect(padded)
        return [] if found is None else found

    return find


def open_detector(model: str = "haar", width: int = 640, min_score: float = 0) -> Detect:
    """What finds the faces in a frame (H, W, 3; uint8; BGR), shrunk to `width` px; raises ModelError."""
    cv2.setNumThreads(1)  # in the whole process: the other cores belong to the broker and the decoder
    find = haar() if model == "haar" else yunet(model, min_score)

    def detect(frame: MatLike) -> list[Face]:
        small = shrink(frame, width)
        back = np.tile(np.divide(frame.shape[1::-1], small.shape[1::-1]), 2)
        found = [Face(clip(row[:4] * back, *frame.shape[1::-1]), float(row[-1])) for row in find(small)]
        return [face for face in found if face.score >= min_score]

    return detect


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
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) at 32 x 32 px, where a sensor's noise is gone."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    # INTER_AREA makes squares with sharp edges of the pixels when it enlarges
    smooth = cv2.INTER_AREA if max(gray.shape) > 32 else cv2.INTER_LINEAR
    return float(cv2.Laplacian(cv2.resize(gray, (32, 32), interpolation=smooth), cv2.CV_32F).var())


def look(frame: MatLike, box: Box) -> Look:
    """What tells one person from another at once: an HSV histogram, 8 x 4 x 4, of head, hair and chest."""
    body, _, _ = cut(frame, box, 0.3, 1.5)
    hsv = cv2.cvtColor(cv2.resize(body, (48, 48), interpolation=cv2.INTER_NEAREST), cv2.COLOR_BGR2HSV)
    return cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])


def encode(image: MatLike, kind: str = "jpg", quality: int = 90, max_bytes: int = MAX_BYTES) -> bytes:
    """The image as a jpg (of `quality`, 0 to 100) or png file, scaled down as far as fits into `max_bytes`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpg" else []
    while len(data := cv2.imencode(f".{kind}", image, options)[1].tobytes()) > max_bytes and min(image.shape[:2]) > 1:
        image = shrink(image, round(image.shape[1] * 0.7))
    return data
