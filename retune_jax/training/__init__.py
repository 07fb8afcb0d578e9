"""Training: the loop (`loop`), what is compiled (`loss`), the optimizer, the log, and how to stop (`stop`)."""
