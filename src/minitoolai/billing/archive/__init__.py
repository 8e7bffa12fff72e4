"""Old days in files: write them, read them, check them."""
