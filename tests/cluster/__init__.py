"""Tests of several machines: network namespaces, a real PostgreSQL, and what breaks between them."""
