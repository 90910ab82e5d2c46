"""What does Linux promise? Attrs and dialects, register ids, record types, syscalls, probing."""
