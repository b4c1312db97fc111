"""What does the detector cost, and what does it find? `python -m tests.bench.detection`

Next to the loop that everybody writes first: haarcascade_frontalface_default, scale 1.3, 5 neighbours, on
every full frame, and every detection published as PNG. Both see the same frames in turn, in one thread; times
are CPU time of that thread.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch
from xml.etree import ElementTree

import cv2
import cv2.data
import numpy as np
from cv2.typing import MatLike

from detector.camera import open_camera
from detector.faces import Box, Detect, Face, crop, encode, look, open_detector, sharpness
from detector.live import Frame
from detector.motion import Motion
from detector.spool import Spool
from detector.tracks import Tracker
from detector.watch import SWEEP, Options, Watch
from service import Settings
from tests.clip import make_clip
from tests.mjpeg import Stream, camera_server, number_of

SHARED = Path(os.environ.get("SHARED", Path(__file__).parents[3] / "shared"))
SAME = 0.3  # IoU from which a box counts as the face that was marked

Photo = tuple[MatLike, list[Box]]


def naive_detector() -> Detect:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def detect(frame: MatLike) -> list[Face]:
        boxes = cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), 1.3, 5)
        return [Face((int(x), int(y), int(w), int(h)), 1) for x, y, w, h in boxes]

    return detect


def detectors() -> dict[str, Detect]:
    """The naive one first, then the cascade, then whatever models there are."""
    found = {"naive": naive_detector(), "Haar": open_detector()}
    for path in sorted((SHARED / "models").glob("*.onnx")):
        found[path.stem.replace("face_detection_", "")] = open_detector(str(path))
    return found


def clip_frames(path: Path) -> list[MatLike]:
    with redirect_stdout(None):  # the table has it to itself
        return [frame.image for frame in open_camera(str(path)) if frame]


def photos() -> list[Photo]:
    """The marked photographs, where there are any."""
    marked = []
    for listing in sorted((SHARED / "faces-dev").glob("*.xml")):
        for entry in ElementTree.parse(listing).iter("image"):
            image = cv2.imread(str(listing.parent / entry.attrib["file"]))
            sides = ("left", "top", "width", "height")
            boxes = [tuple(int(box.attrib[side]) for side in sides) for box in entry.iter("box")]
            if image is not None:
                marked.append((image, boxes))
    return marked  # type: ignore[return-value]


def cpu(work: Callable[[], object]) -> float:
    """CPU time of this thread, ms."""
    before = time.thread_time()
    work()
    return (time.thread_time() - before) * 1000


def cost(detect: dict[str, Detect], frames: Sequence[MatLike], size: tuple[int, int]) -> list[float]:
    """Median CPU ms a frame for each detector, all of them on each frame in turn."""
    times: dict[str, list[float]] = {name: [] for name in detect}
    for frame in frames:
        scaled = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
        for name, find in detect.items():
            times[name].append(cpu(partial(find, scaled)))
    return [median(each) for each in times.values()]


def overlap(a: Box, b: Box) -> float:
    """The IoU of two boxes."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def found(detect: Detect, marked: Sequence[Photo]) -> tuple[int, int]:
    """How many marked faces are found, and how many boxes are no marked face."""
    hits = false = 0
    for image, boxes in marked:
        left = list(boxes)
        for face in detect(image):
            likeness, best = max(((overlap(box, face.box), box) for box in left), default=(0, None))
            if best and likeness >= SAME:
                left.remove(best)
                hits += 1
            else:
                false += 1
    return hits, false


def in_a_large_frame(image: MatLike) -> MatLike:
    """A photograph at its own size in a frame of 1280 x 720 px, as a wide camera sees people far away."""
    height, width = image.shape[:2]
    return cv2.copyMakeBorder(image, 0, 720 - height, 0, 1280 - width, cv2.BORDER_CONSTANT, value=(127, 127, 127))


def naive_loop(detect: Detect, frames: Sequence[MatLike]) -> tuple[int, int, float]:
    """Messages, bytes and CPU ms of publishing every detection of every frame as PNG."""
    sizes: list[int] = []
    spent = 0.0
    for frame in frames:
        before = time.thread_time()
        faces = detect(frame)
        spent += (time.thread_time() - before) * 1000
        sizes += [len(encode(crop(frame, face.box, 0, 4096), "png")) for face in faces]
    return len(sizes), sum(sizes), spent / len(frames)


def our_loop(detect: Detect, frames: Sequence[MatLike], fps: float = 25) -> tuple[int, int, float]:
    """The same of ours: the gate, the detector, the tracker, JPEG."""
    motion, tracker = Motion(), Tracker()
    sizes: list[int] = []

    def watch(frame: MatLike, at: float) -> None:
        if motion.moved(frame, at):
            boxes = [face.box for face in detect(frame)]
            looks = [look(frame, box) for box in boxes]
            for track, box in zip(tracker.follow(boxes, looks, at), boxes, strict=True):
                picture = crop(frame, box)
                if tracker.worth(track, sharpness(picture) * min(box[2:]), at):
                    sizes.append(len(encode(picture)))

    spent = sum(cpu(partial(watch, frame, n / fps)) for n, frame in enumerate(frames))
    return len(sizes), sum(sizes), spent / len(frames)


def latency(detector_s: float, seconds: float) -> list[float]:
    """Age (s) of each frame of a live camera when a detector that takes `detector_s` gets it."""
    stream, ages = Stream(fps=25), []
    with redirect_stdout(None), camera_server(stream) as port:
        camera = open_camera(f"http://127.0.0.1:{port}/")
        end = time.monotonic() + seconds
        for frame in camera:
            if frame:
                ages.append(time.time() - stream.sent[number_of(frame.image)])
            if time.monotonic() > end:
                break
            time.sleep(detector_s)
        camera.close()
    return ages


def row(title: str, cells: Sequence[object]) -> None:
    print(f"{title:<44}" + "".join(f"{cell!s:>18}" for cell in cells), flush=True)


def ratios(values: Sequence[float], unit: str = "ms") -> list[str]:
    """Each value, and how many times less than the first it is."""
    return [f"{value:.2f} {unit} {values[0] / value:6.1f}x" for value in values]


def compare_speed(detect: dict[str, Detect], frames: Sequence[MatLike], marked: Sequence[Photo]) -> None:
    """Print the cost of a frame, on two kinds of picture in two sizes."""
    for width, height in ((1280, 720), (1920, 1080)):
        row(f"CPU a frame, clip, {width}x{height}", ratios(cost(detect, frames[::10], (width, height))))
        if marked:
            times = cost(detect, [image for image, _ in marked] * 3, (width, height))
            row(f"CPU a frame, photos, {width}x{height}", ratios(times))


def compare_finds(detect: dict[str, Detect], marked: Sequence[Photo]) -> None:
    """Print recall and false hits."""
    if not marked:
        print(f"no photos in {SHARED / 'faces-dev'}: recall is not measured")
        return
    scores = [found(find, marked) for find in detect.values()]
    faces = sum(len(boxes) for _, boxes in marked)
    row(f"recall of {faces} faces in {len(marked)} photos", [f"{hits / faces:.2f}" for hits, _ in scores])
    row("false hits", [false for _, false in scores])
    small = [(in_a_large_frame(image), boxes) for image, boxes in marked]  # the detector looks at half its width
    least = min(min(box[2:]) for _, boxes in marked for box in boxes)
    hits = [found(find, small)[0] for find in detect.values()]
    row(f"recall, {least} px and more in 1280x720", [f"{each / faces:.2f}" for each in hits])


def compare_loops(detect: dict[str, Detect], frames: Sequence[MatLike]) -> None:
    """Print what is published of the clip, and the cost of the whole loop where things move and where not."""
    naive, *ours = detect.values()
    loops = [naive_loop(naive, frames), *(our_loop(find, frames) for find in ours)]
    row("messages, two people for 12 s", [count for count, _, _ in loops])
    row("kB", [f"{size / 1000:.0f}" for _, size, _ in loops])
    row("CPU a frame, whole loop, 25 frames/s", ratios([spent for *_, spent in loops]))
    noise = np.random.default_rng(1)
    scene = frames[len(frames) // 3]
    still = [(scene + noise.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(75)]
    loops = [naive_loop(naive, still), *(our_loop(find, still) for find in ours)]
    row("CPU a frame, whole loop, static noisy scene", ratios([spent for *_, spent in loops]))


def watched(model: str, frames: Sequence[MatLike], sweep: tuple[float, float]) -> tuple[float, int, int]:
    """CPU ms a frame, visits and pictures of the detector itself, with so many s between whole looks."""
    with tempfile.TemporaryDirectory() as folder, patch("detector.watch.SWEEP", sweep):
        seen = Watch(Options(Settings({"FACE_MODEL": model})), Spool(Path(folder, "bench.db"), 10**9))
        spent = sum(cpu(partial(seen.look, Frame(image, n / 25))) for n, image in enumerate(frames))
        return spent / len(frames), seen.tracker.last, seen.counts["faces"]


def compare_looks(frames: Sequence[MatLike]) -> None:
    """Print what it saves to look at the whole frame seldom, and else where the faces are."""
    for model in ["haar", *map(str, sorted((SHARED / "models").glob("*.onnx")))]:
        whole, ours = watched(model, frames, (0, 0)), watched(model, frames, SWEEP)
        print(f"{Path(model).stem}: every look whole {whole[0]:.2f} ms a frame, {whole[1]} visits, ", end="")
        print(f"{whole[2]} pictures; ours {ours[0]:.2f} ms, {ours[1]} visits, {ours[2]} pictures: ", end="")
        print(f"{ours[0] / whole[0]:.2f} of the CPU")


def main() -> None:
    detect = detectors()
    marked = photos()
    with tempfile.TemporaryDirectory() as folder:
        make_clip(Path(folder, "clip.mp4"))
        frames = clip_frames(Path(folder, "clip.mp4"))
    row("", list(detect))
    compare_speed(detect, frames, marked)
    compare_finds(detect, marked)
    compare_loops(detect, frames)
    compare_looks(frames)
    ages = latency(detector_s=0.2, seconds=12)
    early, late = ages[: len(ages) // 2], ages[len(ages) // 2 :]
    print("age of a live frame when a detector that takes 200 ms gets it, 12 s at 25 frames/s: ", end="")
    print(f"first half {median(early):.3f} s, second half {median(late):.3f} s, at most {max(ages):.3f} s")


if __name__ == "__main__":
    main()
