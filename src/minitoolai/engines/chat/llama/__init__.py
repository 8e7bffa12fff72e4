"""The embedded chat engine, llama.cpp."""
