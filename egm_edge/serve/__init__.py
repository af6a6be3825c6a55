"""`egm serve`: an OpenAI-compatible HTTP server over one Grounder, and a page to try it. Needs the extra `serve`."""
