"""Second factors: codes, passkeys, recovery codes, and their removal."""
