"""Which faces must be sent again, and when."""

import math
from collections import deque
from collections.abc import Iterator

from .spool import Spool

WINDOW = 32  # faces out again without a receipt, at most
IN_VAIN = 1024  # faces that asked in vain and wait to ask again, at most; they hold no place in the window
SLOWEST = 3600.0  # s; what asks ever more rarely does so at least once an hour
NEVER = -math.inf  # s, the time of a sending


class Again:
    """The faces of a spool that were sent and are not home. Times are s, of a clock that only rises.

    A face is due when
    - it was overtaken: a sending `after` s later, or more, is home, and queues keep their order;
    - or it was never sent;
    - or nothing has come home for `after` s, then for twice as long, and so on: the oldest alone, which asks.
    """

    def __init__(self, spool: Spool, after: float) -> None:
        self.spool, self.after = spool, after
        self.first = spool.newest  # up to here faces were sent first, or never will be
        # They leave in the order of `seq`: up to this face, at this time; where the oldest marks are forgotten, a later
        # one's time holds. So nothing is kept for each face but of those that were sent again
        self.marks = deque([(self.first, NEVER)], maxlen=2**14)
        self.sent_again: dict[int, tuple[float, float]] = {}  # when last, and what is late enough (s) to overtake it
        self.overtaken = NEVER  # the latest sending that is home
        self.silence, self.patience = 0.0, after  # s

    def sent_first(self, seq: int, now: float) -> None:
        """Note that all faces up to this one were sent; `now` is NEVER where they were not."""
        self.marks.append((seq, now))
        self.first = seq

    def home(self, ids: list[str], sent: float) -> None:
        """Let go of faces; `sent` is when the sending left that arrived, NEVER where that is not known."""
        for id_ in ids:
            self.sent_again.pop(self.spool.let_go(id_), None)
        self.overtaken = max(self.overtaken, sent)
        self.silence, self.patience = 0.0, self.after

    def due(self, now: float) -> Iterator[int]:
        """Give the faces to be sent again, each noted as sent now."""
        for seq, (sent, late) in list(self.sent_again.items()):
            if sent + late <= self.overtaken:
                yield self.send(seq, now)
        out = sum(sent + self.after > self.overtaken for sent, _ in self.sent_again.values())
        places = min(WINDOW - out, IN_VAIN - len(self.sent_again))
        # Before the newest that was sent again, each is home or was sent again, too
        for seq in self.spool.after(max(self.sent_again, default=0), max(places, 0)):
            while self.marks[0][0] < min(seq, self.first):
                self.marks.popleft()
            if seq > self.first or self.marks[0][1] + self.after > self.overtaken:
                break
            yield self.send(seq, now)
        oldest = self.spool.after(0, 1) if self.silence > self.patience else []
        if oldest and oldest[0] <= self.first:
            self.silence, self.patience = 0.0, min(2 * self.patience, SLOWEST)
            yield self.send(oldest[0], now)

    def send(self, seq: int, now: float) -> int:
        _, late = self.sent_again.get(seq, (now, self.after / 2))
        self.sent_again[seq] = now, min(2 * late, SLOWEST)  # what was lost several times, by ever more
        return seq
