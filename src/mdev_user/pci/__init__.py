"""The bytes of a PCI function: identity, BARs, capabilities, config space, INTx, MSI and MSI-X.

Nothing here does I/O or takes a lock: a caller reads, writes and is told what changed. One file per noun.
Sources: PCI Local Bus 3.0 chapter 6, PCI Express Base 5.0 chapter 7, PCI Power Management 1.2 chapter 3.
"""
