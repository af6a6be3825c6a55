"""Evaluating boxes: RefCOCO-family and amodal metrics, resumable runs, and reports beside the published tables."""
