"""May this register of this snapshot be believed? Rules, verdicts, reasons."""
