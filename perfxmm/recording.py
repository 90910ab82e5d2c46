"""An opened recording: reader, decoder, timeline and filter tied together."""
