"""`perfxmm.record`: chooses a source for a request and records."""
