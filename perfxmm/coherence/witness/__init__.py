"""The code speaks: what the instructions before a sample's IP prove of its registers."""
