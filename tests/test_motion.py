"""Does the gate let a frame through when something moves in it, and else once a second?"""

import cv2
import numpy as np
from cv2.typing import MatLike

from detector.motion import Motion

START = 1_790_000_000.0  # s since the epoch, as frames carry it


def gray(level: int = 100, size: tuple[int, int] = (1280, 720)) -> MatLike:
    return np.full((size[1], size[0], 3), level, np.uint8)


def with_square(x: int, side: int = 64, size: tuple[int, int] = (1280, 720)) -> MatLike:
    frame = gray(size=size)
    cv2.rectangle(frame, (x, 300, side, side), (200, 200, 200), -1)
    return frame


def test_a_still_scene_is_looked_at_once_a_second() -> None:
    motion = Motion()
    looks = [n / 25 for n in range(126) if motion.moved(gray(), START + n / 25)]
    assert looks == [0, 1, 2, 3, 4, 5]


def test_noise_and_slow_light_are_no_motion(seed: int) -> None:
    random, motion = np.random.default_rng(seed), Motion()
    assert motion.moved(gray(), START)
    for n in range(1, 25):
        noisy = gray(100 + n // 4) + random.normal(0, 6, (720, 1280, 3))
        assert not motion.moved(noisy.clip(0, 255).astype(np.uint8), START + n / 25)


def test_a_face_sized_thing_that_moves_is_looked_at() -> None:
    motion = Motion()
    assert motion.moved(with_square(100), START)
    assert not motion.moved(with_square(100), START + 0.2)
    assert motion.moved(with_square(140), START + 0.3)


def test_what_creeps_is_noticed_against_the_last_frame_looked_at() -> None:
    motion = Motion()
    assert motion.moved(with_square(100), START)
    looks = [n for n in range(1, 12) if motion.moved(with_square(100 + 2 * n), START + 0.08 * n)]
    assert looks
    assert looks[0] < 8


def test_detections_a_second_are_capped_by_the_time_of_the_frames() -> None:
    for fps in (25, 30, 60):
        motion = Motion(max_fps=10)
        frames = (motion.moved(gray(n * 40 % 250), START + n / fps) for n in range(fps * 2))
        assert 16 <= sum(frames) <= 20


def test_the_gate_stands_frames_that_change_size_and_a_clock_set_back() -> None:
    motion = Motion()
    assert motion.moved(gray(), START)
    assert motion.moved(gray(size=(640, 480)), START + 0.2)
    assert motion.moved(gray(size=(16, 16)), START + 0.4)
    assert not motion.moved(gray(size=(16, 16)), START + 0.6)
    assert motion.moved(gray(size=(16, 16)), START - 3600)
