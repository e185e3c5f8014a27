"""A device as bytes, and bytes as a device: kinds of values, the format and its versions, the transfer.

`transfer` saves and loads a device; `handover` does both for a user who goes on with a newer class of its driver.
"""
