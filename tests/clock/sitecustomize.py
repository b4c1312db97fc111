"""A wall clock that is set while a process runs: time.time() is off by the seconds in the file CLOCK_OFFSET.

For the detector under chaos, by PYTHONPATH. libfaketime cannot do it: under it time.sleep() raises EINVAL.
"""

import os
import time
from pathlib import Path

real = time.time
offset = Path(os.environ["CLOCK_OFFSET"])
time.time = lambda: real() + float(offset.read_text() or 0)
