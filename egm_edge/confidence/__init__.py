"""Calibration: from what decoding saw to P(IoU >= 0.5), fitted on data, kept in the bundle, never guessed."""
