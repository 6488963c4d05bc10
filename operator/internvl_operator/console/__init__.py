"""What people see of runs in a terminal: pure tables, and the loop that keeps one up to date."""
