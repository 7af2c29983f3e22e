"""`jinfer bench`: how fast an engine is, beside what its machine could do at most.

workloads   names -> lengths of prompts and outputs           host, plain Python
session     an engine that is being measured: runs requests and takes times
measure     a workload on a session -> a Result: value, limit, percent of the limit
limits      what the machine reaches, measured                device
roofline    what a workload cannot avoid -> the least time    host, plain Python
output      where results go: a table, lines of JSON with their circumstances
profile     a trace with named steps, stations and requests
start       time from nothing to ready, with an empty and a warm compilation cache
serve       load on a server over HTTP, and what its users would feel
"""
