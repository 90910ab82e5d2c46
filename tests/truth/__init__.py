"""The truth workload: a program that knows its registers, and the checker of its recordings."""
