"""Files of a run: atomic writing, strict reading, run folders and their locks."""
