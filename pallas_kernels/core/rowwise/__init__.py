"""Parts of kernels whose programs hold whole rows in registers: rms_norm, layer_norm and softmax.

`columns` cuts a row into arrays of sizes that a kernel can hold, `rows` loads and stores a program's rows in
those arrays, and `blocks` says how many rows and warps a program gets.
"""
