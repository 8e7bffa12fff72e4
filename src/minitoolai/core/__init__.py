"""Types and helpers that every other package uses. Imports the standard library and msgspec only."""
