"""Drafts: what is proposed, how it is verified and how much of it is accepted."""
