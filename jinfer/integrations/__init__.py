"""jinfer inside other systems, each with an extra of its own."""
