"""The command line: parsing, messages, signals, and modules of the user's own."""
