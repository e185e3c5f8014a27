"""Real Linux guests in a real QEMU, for the demo and the tests."""
