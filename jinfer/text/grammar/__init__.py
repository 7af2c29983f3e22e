"""Structured outputs with llguidance: from a schema, an expression or a grammar to masks of tokens."""
