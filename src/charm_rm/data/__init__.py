"""Floor 1: labelled tables, and the files they come from and go to."""
