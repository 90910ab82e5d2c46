"""How does an XSAVE image hold registers? Component offsets, XSTATE_BV, XCOMP_BV, reading it."""
