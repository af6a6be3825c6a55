"""Golden replies: requests with the reference's answers, stored in a bundle, so that any runtime on any machine can be checked
with neither torch nor the checkpoint."""
