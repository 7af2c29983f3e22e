"""The OpenAI-compatible server: an HTTP front in one process, and an engine in another."""
