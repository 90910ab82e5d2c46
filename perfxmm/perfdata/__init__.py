"""What does the file say? Reading and writing perf.data."""
