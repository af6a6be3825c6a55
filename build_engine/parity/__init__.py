"""Parity: does a bundle still give the checkpoint's boxes, and if not, which stage is the first to differ?

`gate.compare` is the comparison, `build_gate.gate` the last step of a build, `egm verify` (`build_engine.verify_cli`) the
same for people. Import the modules: opening the package loads neither torch nor transformers.
"""
