"""Model families: frozen modules over nested dicts of arrays, whose parameters are described as data."""
