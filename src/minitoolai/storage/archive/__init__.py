"""Old days in files of the object store: their format, and the rows that say what is in which file."""
