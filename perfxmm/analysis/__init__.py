"""What do many snapshots say? Pure functions from batches to result dataclasses."""
