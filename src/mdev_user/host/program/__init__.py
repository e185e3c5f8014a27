"""Processes that mdevs have of their own: `programs`, `process` are the host's side; `__main__`, `memory` theirs."""
