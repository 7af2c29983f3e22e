"""Work on data from strangers in a process of its own, with bounds on its time, memory and stack."""
