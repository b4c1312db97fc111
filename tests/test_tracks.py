"""Is each person followed, and said once, then seldom, then better?"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.faces import Box, Look, crop, look, open_detector, sharpness
from detector.motion import Motion
from detector.tracks import Track, Tracker, distance, match
from tests.clip import make_clip

START = 1_790_000_000.0  # s since the epoch, as frames carry it
ANNA: Look = np.array([1.0, 0.0], np.float32)
BERT: Look = np.array([0.64, 0.36], np.float32)


def test_distance_is_that_of_the_centres_in_sides_of_the_smaller() -> None:
    one = (100, 100, 50, 50)
    assert distance(one, one) == 0
    assert distance(one, (125, 100, 50, 50)) == distance((125, 100, 50, 50), one) == pytest.approx(1 / 2)
    assert distance(one, (200, 100, 50, 50)) == 2
    assert distance(one, (100, 100, 100, 50)) == pytest.approx(1 / 2)
    rising = [distance(one, (x, 100, 50, 50)) for x in (120, 160, 170)]
    assert rising == sorted(rising)


def test_faces_are_dealt_to_tracks_the_nearest_pair_first() -> None:
    one, two = Track(1, (0, 0, 100, 100), ANNA, START), Track(2, (120, 0, 100, 100), ANNA, START)
    assert match([one, two], [(130, 0, 100, 100), (60, 0, 100, 100)], [ANNA, ANNA]) == {0: two, 1: one}
    assert match([one, two], [(900, 0, 100, 100)], [ANNA]) == {}
    assert match([one], [(0, 0, 100, 100)], [BERT]) == {}
    assert match([], [(1, 1, 1, 1)], [ANNA]) == {}


def box(x: int, y: int = 300, side: int = 100) -> Box:
    return x, y, side, side


def sent(tracker: Tracker, at: float, *boxes: Box, quality: float = 1.0, who: Look = ANNA) -> list[int]:
    """The numbers of the tracks of which a picture of this look is worth sending."""
    tracks = tracker.follow(list(boxes), [who] * len(boxes), START + at)
    return [track.number for track in tracks if tracker.worth(track, quality, START + at)]


def test_ten_minutes_at_a_desk_are_16_pictures_at_doubling_intervals() -> None:
    tracker = Tracker(interval=1, longest=60)
    times = [n / 10 for n in range(6000) if sent(tracker, n / 10, box(100))]
    assert times[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert 14 <= len(times) <= 17


def test_who_takes_the_place_of_another_is_a_new_visit_and_who_comes_back_is_not() -> None:
    tracker = Tracker(interval=60)
    assert sent(tracker, 0, box(100), who=ANNA) == [1]
    assert sent(tracker, 0.1, box(100), who=BERT) == [2]
    assert sent(tracker, 0.2, box(100), who=BERT) == []
    assert sent(tracker, 10, box(100), who=ANNA) == [], "looked away, and is still visit 1"
    ids = {track.id for track in tracker.tracks}
    assert len(ids) == 2
    assert all(len(each) == 8 for each in ids)


def test_an_interval_of_0_says_every_detection() -> None:
    tracker = Tracker(interval=0)
    assert sum(len(sent(tracker, n / 10, box(100), box(600))) for n in range(10)) == 20


def test_a_clearly_better_picture_is_said_before_its_time() -> None:
    tracker = Tracker(interval=1)
    assert sent(tracker, 0, box(100), quality=100)
    assert not sent(tracker, 0.3, box(100), quality=100)
    assert not sent(tracker, 0.35, box(100), quality=125)
    assert sent(tracker, 0.4, box(100), quality=150)
    assert not sent(tracker, 0.7, box(100), quality=150)


def test_a_face_that_comes_into_focus_is_not_said_at_every_step() -> None:
    tracker = Tracker(interval=1)
    assert sum(len(sent(tracker, n / 10, box(100), quality=1.5**n)) for n in range(11)) <= 5


def test_two_faces_that_pass_each_other_keep_their_numbers() -> None:
    tracker = Tracker(interval=0)
    for n in range(41):
        assert sent(tracker, n / 10, box(100 + 20 * n, 250), box(900 - 20 * n, 420)) == [1, 2]


def test_a_face_missed_for_a_moment_keeps_its_number_and_one_gone_for_long_does_not() -> None:
    tracker = Tracker(interval=0)
    assert sent(tracker, 0, box(100)) == [1]
    assert sent(tracker, 11.9, box(180)) == [1]
    assert sent(tracker, 28.0, box(180)) == [2]
    assert sent(tracker, -900, box(180)) == [3]  # the clock was set back


def whose(box: Box) -> str:
    """Who is seen in the clip's frame: they are at different heights."""
    return "Collins" if box[1] + box[3] / 2 < 360 else "Hopper"


def test_the_demo_clip_is_two_visits_of_a_few_pictures(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    video, detect = cv2.VideoCapture(str(tmp_path / "clip.mp4")), open_detector()
    motion, tracker, seen = Motion(), Tracker(), []
    for index in range(300):
        frame, at = video.read()[1], START + index / 25
        if motion.moved(frame, at):
            boxes = [face.box for face in detect(frame)]
            looks = [look(frame, place) for place in boxes]
            for track, place in zip(tracker.follow(boxes, looks, at), boxes, strict=True):
                if tracker.worth(track, sharpness(crop(frame, place)) * place[2], at):
                    seen.append((track.number, whose(place)))
    assert 8 <= len(seen) <= 16
    assert len(set(seen)) == 2, "two people, one track each"
    assert {who for _, who in seen} == {"Collins", "Hopper"}
