"""Make a video with two real people in it: `python -m tests.clip OUT.mp4`.

Eileen Collins (skimage.data.astronaut) and Grace Hopper (a sample picture of Matplotlib), photographs of NASA
and the US Navy in the public domain, walk in from either side, pass each other and leave, before a drifting
background.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from matplotlib import cbook
from skimage import data

# Head and shoulders, traced by hand, in pixels of the source pictures.
COLLINS = [
    (152, 96), (158, 55), (185, 24), (225, 16), (268, 28), (292, 58), (300, 90), (286, 122), (264, 138),
    (260, 172), (284, 190), (302, 216), (306, 256), (342, 290), (362, 350), (372, 512), (22, 512), (22, 440),
    (54, 262), (114, 214), (114, 184), (140, 156), (180, 148), (180, 124), (158, 112),
]  # fmt: skip
HOPPER = [
    (150, 170), (146, 118), (172, 88), (176, 60), (214, 34), (252, 22), (300, 28), (346, 62), (354, 90),
    (371, 100), (372, 150), (364, 182), (374, 186), (374, 230), (358, 300), (336, 310), (330, 322),
    (382, 352), (482, 384), (496, 420), (502, 480), (502, 600), (14, 600), (16, 560), (30, 400), (50, 384),
    (160, 344), (202, 316), (196, 296), (172, 284), (158, 240), (154, 196),
]  # fmt: skip


FOCUSED = 2  # s until the camera has found its focus: the pictures of a track get better


class Cutout(NamedTuple):
    """A person without background: BGR as float, and how opaque each pixel is (0..1)."""

    image: MatLike
    alpha: MatLike


def cut_out(image: MatLike, outline: list[tuple[int, int]], height: int) -> Cutout:
    """What lies inside the outline, with a soft edge, scaled to `height` px."""
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.array(outline, np.int32)], 255)
    mask = cv2.GaussianBlur(cv2.erode(mask, np.ones((5, 5), np.uint8)), (0, 0), 2.5).astype(np.uint8)
    size = (round(image.shape[1] * height / image.shape[0]), height)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)[:, :, None]
    return Cutout(small.astype(np.float32), alpha.astype(np.float32) / 255)


def paste(scene: MatLike, person: Cutout, x: int, y: int) -> None:
    """Draw a person into `scene` with the top left corner at (x, y), which may lie outside."""
    height, width = person.alpha.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, scene.shape[1]), min(y + height, scene.shape[0])
    if left >= right or top >= bottom:
        return
    part = np.s_[top - y : bottom - y, left - x : right - x]
    image, alpha = person.image[part], person.alpha[part]
    under = scene[top:bottom, left:right]
    scene[top:bottom, left:right] = (under + (image - under) * alpha).astype(np.uint8)


def wall(size: tuple[int, int], seed: int) -> MatLike:
    """Smooth, faintly coloured texture, half as large again as `size` = (width, height), to drift over."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(70, 180, (7, 11, 1)) + random.uniform(-15, 15, (7, 11, 3))
    wide = (size[0] * 3 // 2, size[1] * 3 // 2)
    return cv2.resize(coarse, wide, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def people(height: int) -> tuple[Cutout, Cutout]:
    """Collins and Hopper, sized for a frame `height` px high."""
    collins = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    hopper = cv2.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    if hopper is None:
        raise OSError("grace_hopper.jpg: Matplotlib came without its sample pictures")
    return cut_out(collins, COLLINS, round(height * 0.93)), cut_out(hopper, HOPPER, round(height * 0.66))


def make_clip(
    path: str | Path, seconds: float = 12, fps: int = 25, size: tuple[int, int] = (1280, 720), seed: int = 1
) -> None:
    """Write an mp4 of two people passing each other; the same arguments give the same pictures."""
    width, height = size
    collins, hopper = people(height)
    texture = wall(size, seed)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    if not video.isOpened():
        raise OSError(f"{path}: cannot write a video there")
    for index in range(round(seconds * fps)):
        done = index / fps / seconds
        slide = (1 + math.sin(2 * math.pi * done)) / 2
        x, y = round(slide * width * 0.49), round((1 - slide) * height * 0.49)
        scene = texture[y : y + height, x : x + width].copy()
        step = round(height * 0.012 * math.sin(2 * math.pi * index / fps))  # they bob once a second
        collins_x = round((1.03 * done - 0.22) * width)
        hopper_x = round((0.82 - 1.03 * done) * width)
        paste(scene, collins, collins_x, round(height * 0.09) + step)
        paste(scene, hopper, hopper_x, round(height * 0.41) - step)
        blur = 2 * (1 - index / fps / FOCUSED)
        video.write(cv2.GaussianBlur(scene, (0, 0), blur) if blur > 0 else scene)
    video.release()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.clip OUT.mp4")
    make_clip(sys.argv[1])
