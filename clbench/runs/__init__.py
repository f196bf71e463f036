"""One run: what is to be done, the doing of it, and what it needs to go on after an interruption."""
