"""Read request bodies: JSON, forms, files, encodings, data URLs."""
