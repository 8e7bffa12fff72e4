"""The nouns every floor shares; standard library and msgspec only."""
