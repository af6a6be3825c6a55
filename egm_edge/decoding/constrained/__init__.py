"""Forced answer syntax: a finite-state machine over bytes, the grammar of answers, and the decoder that follows it."""
