"""Tracking: a grounded box, carried from its frame to now at camera rate.

    from egm_edge.tracking import Tracker

    tracker = Tracker()
    tracker.push(image_rgb, stamp_ns)             # every camera frame
    tracker.start("cmd-1", box, answer_stamp_ns)  # an answer, seconds later: replayed to the newest frame
    for tracked in tracker.boxes():
        print(tracked.state, tracked.box, tracked.age_ms)

Needs NumPy and OpenCV, no model files; knows nothing of ROS or of the model.
"""

from egm_edge.tracking.settings import TrackerSettings
from egm_edge.tracking.tracked import TrackedBox, TrackState
from egm_edge.tracking.tracker import Tracker

__all__ = ["TrackState", "TrackedBox", "Tracker", "TrackerSettings"]
