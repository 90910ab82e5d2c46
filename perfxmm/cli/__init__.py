"""Which verb was asked for? One thin module per verb."""
