"""The only package that contains SQL or writes files."""
