"""Public: what the tests of a parent driver need. ``local`` is a whole host in the test's own process."""
