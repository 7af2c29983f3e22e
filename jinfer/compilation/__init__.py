"""Programs compiled ahead of time: the persistent cache, traced programs on disk, and the options of the
compiler."""
