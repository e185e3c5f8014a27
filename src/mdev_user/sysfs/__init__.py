"""The kernel's sysfs tree of the mdev bus, served with FUSE.

`tree` is what a node is, `attributes` what each file shows and takes, `layout` which nodes are there; they are pure.
`operations` answers FUSE's requests from the tree and `mount` places it in the file system.
"""
