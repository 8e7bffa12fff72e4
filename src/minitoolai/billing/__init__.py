"""Turn prices into ledger operations: charging, payments, usage reports, audit and retention."""
