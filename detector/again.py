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

    Only of those that were sent again something is kept each: first sendings leave in the order of `seq`, so
    a mark now and then says what was sent when.
    """

    def __init__(self, spool: Spool, after: float, now: float) -> None:
        self.spool = spool
        self.after = self.patience = after
        self.first = spool.newest  # up to here faces were sent first, or never will be
        # Up to this face, at this time or before; where the oldest are forgotten, a later one's time holds for them
        self.marks = deque([(self.first, NEVER)], maxlen=4096)
        self.swept = 0  # up to here each face is home or in `sent_again`
        self.sent_again: dict[int, tuple[float, int]] = {}  # the last time, and how many times
        self.overtaken = NEVER  # the latest sending that is home
        self.heard = now

    def sent_first(self, seq: int, now: float) -> None:
        """Note that all faces up to this one were sent; `now` is NEVER where they were not."""
        grain = self.after / 4
        now = now if now == NEVER else math.ceil(now / grain) * grain
        if self.marks and self.marks[-1][1] == now:
            self.marks.pop()
        self.marks.append((seq, now))
        self.first = seq

    def home(self, ids: list[str], sent: float, now: float) -> None:
        """Let go of faces; `sent` is when the sending left that arrived, NEVER where that is not known."""
        for id_ in ids:
            self.sent_again.pop(self.spool.let_go(id_), None)
        self.overtaken = max(self.overtaken, sent)
        self.heard, self.patience = now, self.after

    def due(self, now: float) -> Iterator[int]:
        """Give the faces to be sent again, each noted as sent now."""
        for seq, (sent, times) in list(self.sent_again.items()):
            if self.lost(sent, times):
                yield self.send(seq, now)
        out = sum(not self.lost(sent) for sent, _ in self.sent_again.values())
        places = min(WINDOW - out, IN_VAIN - len(self.sent_again))
        for seq in self.spool.after(self.swept, max(places, 0)):
            if seq > self.first or not self.lost(self.last_sent(seq)):
                break
            yield self.send(seq, now)
        for seq in self.spool.after(0, 1):
            if seq <= self.first and now - max(self.heard, self.last_sent(seq)) > self.patience:
                self.patience = min(2 * self.patience, SLOWEST)
                yield self.send(seq, now)

    def send(self, seq: int, now: float) -> int:
        self.swept = max(self.swept, seq)
        self.sent_again[seq] = now, self.sent_again.get(seq, (now, 0))[1] + 1
        return seq

    def last_sent(self, seq: int) -> float:
        if seq in self.sent_again:
            return self.sent_again[seq][0]
        while self.marks[0][0] < seq:
            self.marks.popleft()
        return self.marks[0][1]

    def lost(self, sent: float, times: int = 1) -> bool:
        """Tell whether a sending was overtaken; a face that was lost several times, by ever more."""
        return sent + min(self.after * 2.0 ** min(times - 1, 12), SLOWEST) <= self.overtaken
