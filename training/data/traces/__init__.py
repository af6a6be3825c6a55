"""Reasoning traces: asked of any OpenAI-compatible endpoint, judged, and kept in a ledger that survives a kill."""
