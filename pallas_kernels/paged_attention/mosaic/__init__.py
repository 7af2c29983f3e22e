"""Paged attention in Pallas on Mosaic GPU."""
