"""What tracking costs, and what it may cost: CPU time, of moving tracks first, of replaying answers with what is left; and
whether the camera's frames are kept up with, whoever else has the processor.

Knows nothing of tracks, threads or clocks: it is told how long everything took, milliseconds of CPU time.
"""

from __future__ import annotations

MAX_TRACKS = 1000
SMOOTHING = 0.05
# Of a frame's budget, for replays: answers catch up, slowly, however many tracks there are and however late the frames; and
# a model that answers faster than anybody needs does not fill the processor with replays of tracks that are well.
LEAST_SHARE, MOST_SHARE = 0.1, 0.25
MOST_SAVED_FRAMES = 5  # of what replays may have, while there are none
PROMISED = 16  # tracks: so many are never given up because frames are skipped
# Shares of the camera's frames that were skipped: above the one there are too many tracks, below the other there may be more.
TOO_MANY_SKIPPED, FEW_SKIPPED = 0.1, 0.02
LESS, MORE = 0.99, 0.02  # a frame: factor, and tracks


class TrackBudget:
    """One budget a camera frame. A frame costs base + tracks x cost of one, and that says how many tracks there may be.

    What moving the tracks leaves of it, a quarter at most, is credit for replays, which take it between frames; a tenth is owed
    to them, which they take though a frame waits.

    Args:
        budget_ms: for one frame.
        cameras: that share the interpreter; each has its part of the time for replays.
    """

    def __init__(self, budget_ms: float, cameras: int = 1) -> None:
        self._budget_ms, self._cameras = budget_ms, cameras
        self.frame_ms = self.base_ms = self.ms_per_track = 0.0
        self._credit_ms, self._owed_ms = MOST_SAVED_FRAMES * budget_ms, 0.0
        self._skipped, self._keeps_up = 0.0, float(MAX_TRACKS)

    def note_frame(self, took_ms: float, tracks: int, skipped: int = 0) -> None:
        """A frame took this long with so many tracks, after so many that nobody had time for."""
        self._skipped += SMOOTHING * (skipped / (skipped + 1) - self._skipped)
        if self._skipped > TOO_MANY_SKIPPED:
            self._keeps_up = max(PROMISED, LESS * min(self._keeps_up, max(tracks, PROMISED)))
        elif self._skipped < FEW_SKIPPED:
            self._keeps_up = min(MAX_TRACKS, self._keeps_up + MORE)
        self.frame_ms += SMOOTHING * (took_ms - self.frame_ms)
        if tracks == 0:
            self.base_ms += SMOOTHING * (took_ms - self.base_ms)
        else:
            one_ms = max(0.0, took_ms - self.base_ms) / tracks
            self.ms_per_track += SMOOTHING * (one_ms - self.ms_per_track) if self.ms_per_track else one_ms
        least_ms, most_ms = LEAST_SHARE * self._budget_ms, MOST_SHARE * self._budget_ms
        gain_ms = max(least_ms, min(most_ms, self._budget_ms - took_ms)) / self._cameras
        self._credit_ms = min(MOST_SAVED_FRAMES * self._budget_ms, self._credit_ms + gain_ms)
        self._owed_ms = min(MOST_SAVED_FRAMES * least_ms, self._owed_ms + least_ms / self._cameras)

    def note_replay(self, took_ms: float) -> None:
        self._credit_ms -= took_ms
        self._owed_ms -= took_ms

    @property
    def may_replay(self) -> bool:
        return self._credit_ms > 0

    @property
    def must_replay(self) -> bool:
        return self._credit_ms > 0 and self._owed_ms > 0

    @property
    def allowed(self) -> int:
        """Tracks; at least one."""
        if self.ms_per_track <= 0:
            return int(self._keeps_up)
        return max(1, min(int(self._keeps_up), int((self._budget_ms - self.base_ms) / self.ms_per_track)))
