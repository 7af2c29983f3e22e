"""The parts that operations share, and no operation itself."""
