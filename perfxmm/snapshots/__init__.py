"""What was in the registers? Records to NumPy columns, in bounded batches."""
