"""How does an XSAVE image hold registers? Component layouts, XSTATE_BV, reading an image."""
