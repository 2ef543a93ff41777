"""Floor 4: the command line. The only floor that opens a user's file or prints."""
