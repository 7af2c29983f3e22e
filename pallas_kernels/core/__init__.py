"""What the operations share, and no operation itself."""
