"""The parent drivers that we ship, one file each, found by entry point and imported by nobody."""
