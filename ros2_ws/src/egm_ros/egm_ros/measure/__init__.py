"""Measurements of the running node, each in processes of its own: `python -m egm_ros.measure --help`."""
