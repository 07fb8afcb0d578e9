"""Studies: the paper's questions, each answered by runs that differ in one thing.

`plans` says which runs a study makes, `runner` makes them, all in one process, and `tables` tells what came out. One study
trains nothing: `errors` reads runs that are there.
"""
