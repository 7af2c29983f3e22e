"""Programs compiled ahead of time: executables and traced programs on disk, and the options of the
compiler."""
