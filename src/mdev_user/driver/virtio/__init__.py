"""Virtio devices: the modern PCI transport (virtio 1.2, section 4.1) with split virtqueues (section 2.7).

`ring` reads and writes what a guest shares, `chain` is one request, `queue` its declaration, `transport` the BAR, and
`function` the class that an author subclasses.
"""
