"""Why a camera cannot be read, and what to do: one line in our own words, so that no password is in it."""

import errno
import fcntl
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

# What FFmpeg says, and what we say. It says it on stdout, and in a process of its own only: OpenCV hides it
SAID = (
    (r"\b401\b", "401 Unauthorized: correct user and password in CAMERA"),
    (r"\b403\b", "403 Forbidden: let this user see the stream"),
    (r"\b404\b", "404 Not Found: correct the path in CAMERA, the camera's manual has it"),
    (r"\b(453|503)\b", "503 busy: the camera is starting, or has too many viewers"),
    (r"refused", "connection refused: correct address and port, or switch the stream on in the camera"),
    (r"resolve hostname", "name unknown: correct the host name in CAMERA, or give an address"),
    (r"Port missing", "no address can be read: write # as %23, / as %2F, @ as %40 in a password"),
    (r"SSL|TLS|tls", "no TLS there: correct the port, or write rtsp:// or http://"),
    (r"Invalid data", "no video there: correct the path in CAMERA"),
    (r"", "no answer: is it on, and in this network?"),
)
# 53: CAP_PROP_OPEN_TIMEOUT_MSEC
PROBE = "import cv2, sys; cv2.VideoCapture(sys.stdin.read(), cv2.CAP_FFMPEG, [53, 8000])"

# linux/videodev2.h: no buffers of V4L2_BUF_TYPE_VIDEO_CAPTURE, by V4L2_MEMORY_MMAP; who streams there has the node
VIDIOC_REQBUFS, NO_BUFFERS = 0xC0145608, struct.pack("5I", 0, 1, 1, 0, 0)
NO_CAPTURE = "no capture node: see `v4l2-ctl --list-devices`; a USB camera's first device has the pictures"
SAYS: dict[int | None, str] = {
    errno.EBUSY: "busy: another program uses it, see `fuser -v /dev/video*`",
    errno.EACCES: "not permitted: let this user read it, by group video or a camera component of K3s",
    errno.EPERM: "not permitted: on K3s choose a camera component",
    errno.ENOTTY: NO_CAPTURE,
    errno.EINVAL: NO_CAPTURE,
}


def redact(source: str) -> str:
    """The source without what may be a password: what is before an @, in a query, or behind a =."""
    if source.startswith("/"):
        return source
    without_user = re.sub(r"^([^/@]*//)?.*@", r"\1...@", source.strip(), flags=re.DOTALL)
    return re.sub(r"([?=]).*", r"\1...", without_user, flags=re.DOTALL)


def why_url(url: str) -> str:
    """The reason why a URL cannot be read: asks once more, for FFmpeg's words; takes some seconds."""
    env = {**os.environ, "OPENCV_FFMPEG_LOGLEVEL": "24"}  # AV_LOG_WARNING
    command = [sys.executable, "-c", PROBE]  # the URL goes by stdin: everybody can see a command line
    try:
        words = subprocess.run(  # noqa: S603 # our own interpreter
            command, input=url.encode(), env=env, capture_output=True, timeout=30, check=False
        ).stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        words = ""
    return next(ours for theirs, ours in SAID if re.search(theirs, words))


def why_device(device: str) -> str:
    """The reason why a V4L2 device cannot be read, asked of the kernel."""
    try:
        with Path(device).open("r+b", buffering=0) as node:
            fcntl.ioctl(node, VIDIOC_REQBUFS, NO_BUFFERS)
    except OSError as error:
        return SAYS.get(error.errno, f"{error.strerror}: is it plugged in? see `ls /dev/video*`")
    return "no picture comes: unplug it, and plug it in again"
