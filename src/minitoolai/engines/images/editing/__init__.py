"""Edits of uploaded images: decoding uploads, what a mask protects, and the embedded model's way of editing."""
