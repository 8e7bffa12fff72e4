"""The JSON edge, for callers with keys: parse, call one service, render."""
