"""A fresh host for each test: its tree, parents and events, served by a process that a zygote forks in milliseconds."""
