"""What code was running? Address spaces over time, build ids, symbols."""
