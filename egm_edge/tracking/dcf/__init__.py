"""A discriminative correlation filter (DCF) follower: NumPy and plain OpenCV, no contrib modules, no model files.

The family of KCF (Henriques, TPAMI 2015), DSST (Danelljan, BMVC 2014), Staple (Bertinetto, CVPR 2016) and CSR-DCF
(Lukežič, CVPR 2017), cut down to what pays for its milliseconds on small frames.
"""
