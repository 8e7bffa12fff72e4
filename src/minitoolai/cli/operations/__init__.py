"""Commands for operators: archive, audit, backup, doctor, secrets."""
