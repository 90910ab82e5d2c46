"""The kernel module behind source `nmi`: building, loading, signing, and what it says of itself."""
