"""Does the detector look when something moves, and say each person once, then seldom, then better?"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from cv2.typing import MatLike

from detector.faces import Box, Face, open_detector
from detector.tracks import Motion, Tracker, affinity, match
from tests.clip import make_clip

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


def test_affinity_is_overlap_then_nearness() -> None:
    box = (100, 100, 50, 50)
    assert affinity(box, box) == 1
    assert affinity(box, (125, 100, 50, 50)) == pytest.approx(1 / 3)
    assert affinity(box, (200, 100, 50, 50)) == -2
    assert (
        affinity(box, (120, 100, 50, 50))
        > affinity(box, (160, 100, 50, 50))
        > affinity(box, (170, 100, 50, 50))
    )


def test_faces_are_dealt_to_tracks_the_surest_pair_first() -> None:
    tracks = [(0, 0, 100, 100), (120, 0, 100, 100)]
    assert match(tracks, [(130, 0, 100, 100), (60, 0, 100, 100)]) == {0: 1, 1: 0}
    assert match(tracks, [(900, 0, 100, 100)]) == {}
    assert match([], [(1, 1, 1, 1)]) == {}


def face(x: int, y: int = 300, side: int = 100) -> Face:
    return Face((x, y, side, side), 0.9)


def sent(tracker: Tracker, frame: MatLike, at: float, *faces: Face) -> list[int]:
    return [sighting.track for sighting in tracker.update(frame, list(faces), START + at)]


def test_a_face_is_said_on_first_sight_and_then_once_an_interval() -> None:
    tracker, frame = Tracker(interval=1), with_square(120)
    times = [n / 10 for n in range(31) if sent(tracker, frame, n / 10, face(100))]
    assert times == [0, 1, 2, 3]


def test_an_interval_of_0_says_every_detection() -> None:
    tracker, frame = Tracker(interval=0), with_square(120)
    assert sum(len(sent(tracker, frame, n / 10, face(100), face(600))) for n in range(10)) == 20


def test_a_clearly_better_picture_is_said_before_its_time(seed: int) -> None:
    sharp = np.random.default_rng(seed).integers(0, 256, (720, 1280, 3), np.uint8)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 0.8)
    tracker = Tracker(interval=1)
    assert sent(tracker, blurred, 0, face(100))
    assert not sent(tracker, blurred, 0.3, face(100))
    assert not sent(tracker, blurred, 0.35, face(100, side=105))  # larger, but hardly
    assert sent(tracker, sharp, 0.4, face(100))
    assert not sent(tracker, sharp, 0.7, face(100))


def test_a_face_that_comes_into_focus_is_not_said_at_every_step() -> None:
    rough = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    frames = [cv2.GaussianBlur(rough, (0, 0), 0.3 * (12 - n)) for n in range(11)]
    tracker = Tracker(interval=1)
    assert sum(len(sent(tracker, frame, n / 10, face(100))) for n, frame in enumerate(frames)) <= 5


def test_two_faces_that_pass_each_other_keep_their_numbers() -> None:
    tracker, frame = Tracker(interval=0), gray()
    for n in range(41):
        assert sent(tracker, frame, n / 10, face(100 + 20 * n, 250), face(900 - 20 * n, 420)) == [1, 2]


def test_a_face_missed_for_a_moment_keeps_its_number_and_one_gone_for_long_does_not() -> None:
    tracker, frame = Tracker(interval=0), gray()
    assert sent(tracker, frame, 0, face(100)) == [1]
    assert sent(tracker, frame, 1.9, face(180)) == [1]
    assert sent(tracker, frame, 4.0, face(180)) == [2]
    assert sent(tracker, frame, -900, face(180)) == [3]  # the clock was set back


def test_a_sighting_tells_box_and_sharpness_at_the_very_edge_of_the_frame() -> None:
    frame = with_square(1240)
    (sighting,) = Tracker().update(frame, [face(1200, side=80)], START)
    assert sighting.face.box == (1200, 300, 80, 80)
    assert sighting.sharpness > 0


def whose(box: Box) -> str:
    """Who is seen in the clip's frame: they are at different heights."""
    return "Collins" if box[1] + box[3] / 2 < 360 else "Hopper"


def test_the_demo_clip_gives_each_person_about_once_a_second(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    video, detect = cv2.VideoCapture(str(tmp_path / "clip.mp4")), open_detector()
    motion, tracker, seen = Motion(), Tracker(), []
    for index in range(300):
        frame, at = video.read()[1], START + index / 25
        if motion.moved(frame, at):
            seen += [(s.track, whose(s.face.box)) for s in tracker.update(frame, detect(frame), at)]
    assert 20 <= len(seen) <= 32
    assert len(set(seen)) == 2, "two people, one track each"
    assert {who for _, who in seen} == {"Collins", "Hopper"}
