"""Read and write the tables: all SQL statements, by subject."""
