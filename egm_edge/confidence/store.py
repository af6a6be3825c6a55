"""Puts a confidence map into a bundle: a new manifest takes the old one's place in one rename.

The map lies in the manifest, not beside it: the manifest's seal covers it and tells when it was edited; the bundle's hash
does not.
"""

from __future__ import annotations

import json
from pathlib import Path

from egm_edge.bundle import CONFIDENCE_MAP, Bundle
from egm_edge.confidence.logistic_calibration import LogisticCalibration
from egm_edge.errors import InputError
from egm_edge.files import whole_file


def store(bundle: Bundle, fitted: LogisticCalibration | None) -> Bundle:
    """Write the map into the bundle, or take it out with None; the bundle as it is then.

    Raises:
        BundleError: its directory cannot be written.
    """
    return bundle.vouched("calibrate a copy of it", calibration=None if fitted is None else fitted.to_dict())


def keep_with(checkpoint: Path, fitted: LogisticCalibration) -> None:
    """Write the map beside a checkpoint's weights: bundles built from it are calibrated.

    Raises:
        InputError: the directory cannot be written.
    """
    try:
        with whole_file(checkpoint / CONFIDENCE_MAP) as stream:
            stream.write(json.dumps(fitted.to_dict(), indent=1) + "\n")
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(f"a checkpoint that can be written at {checkpoint}", found, "pass another --keep-in") from None
