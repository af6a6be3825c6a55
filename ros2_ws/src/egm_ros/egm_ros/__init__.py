"""ROS 2 shell round egm_edge: camera frames and sentences in, stamped boxes out."""
