"""The truth programs, which know their registers, and the checker of their recordings."""
