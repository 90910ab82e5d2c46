"""Where do snapshots come from on this machine? One module per source."""
