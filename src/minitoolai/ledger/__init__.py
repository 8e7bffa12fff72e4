"""The money rules as a pure function of state and operation. No I/O and no clock."""
