"""Why a camera cannot be read, and what to do: one line in our own words, so that no password is in it."""

import fcntl
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

# What is said, and what we say
SAID = {
    # what FFmpeg says
    r"\b401\b": "401 Unauthorized: correct user and password in CAMERA",
    r"\b403\b": "403 Forbidden: let this user see the stream",
    r"\b404\b": "404 Not Found: correct the path in CAMERA, the camera's manual has it",
    r"\b(453|503)\b": "503 busy: the camera is starting, or has too many viewers",
    r"refused": "connection refused: correct address and port, or switch the stream on in the camera",
    r"resolve hostname": "name unknown: correct the host name in CAMERA, or give an address",
    r"Port missing": "no address can be read: write # as %23, / as %2F, @ as %40 in a password",
    r"SSL|TLS|tls": "no TLS there: correct the port, or write rtsp:// or http://",
    r"Invalid data": "no video there: correct the path in CAMERA",
    # what the kernel says
    r"^Device or resource busy": "busy: another program uses it, see `fuser -v /dev/video*`",
    r"^(Permission|Operation)": "not permitted: let this user read it, by group video or a camera component of K3s",
    r"^(Inappropriate|Invalid)": "no capture node: see `v4l2-ctl --list-devices`, a USB camera's first has pictures",
    r"^No such": "not there: is it plugged in? see `ls /dev/video*`",
    r"^$": "no picture comes: unplug it, and plug it in again",
    r"": "no answer: is it on, plugged in, and in this network?",
}
# FFmpeg says it on stdout, and in a process of its own only: OpenCV hides it. 53: CAP_PROP_OPEN_TIMEOUT_MSEC
PROBE = "import cv2, signal, sys; signal.alarm(30); cv2.VideoCapture(sys.stdin.read(), cv2.CAP_FFMPEG, [53, 8000])"
# linux/videodev2.h: no buffers of V4L2_BUF_TYPE_VIDEO_CAPTURE, by V4L2_MEMORY_MMAP; who streams there has the node
VIDIOC_REQBUFS, NO_BUFFERS = 0xC0145608, struct.pack("5I", 0, 1, 1, 0, 0)


def redact(source: str) -> str:
    """The source without what may be a password: what is before an @, in a query, or behind a =."""
    if source.startswith("/"):
        return source
    without_user = re.sub(r"(?s)^([^/@]*//)?.*@", r"\1...@", source.strip())
    return re.sub(r"(?s)([?=]).*", r"\1...", without_user)


def why(source: str) -> str:
    """The reason why a device or a URL cannot be read; takes some seconds."""
    words = ask_ffmpeg(source) if "://" in source else ask_kernel(source)
    return next(ours for theirs, ours in SAID.items() if re.search(theirs, words))


def ask_ffmpeg(url: str) -> str:
    env = {**os.environ, "OPENCV_FFMPEG_LOGLEVEL": "24"}  # AV_LOG_WARNING
    probe = [sys.executable, "-c", PROBE]  # the URL goes by stdin: everybody can see a command line
    asked = subprocess.run(probe, input=url.encode(), env=env, capture_output=True, check=False)  # noqa: S603
    return f"FFmpeg: {asked.stdout.decode(errors='replace')}"


def ask_kernel(device: str) -> str:
    try:
        with Path(device).open("r+b", buffering=0) as node:
            fcntl.ioctl(node, VIDIOC_REQBUFS, NO_BUFFERS)
    except OSError as error:
        return str(error.strerror)
    return ""
