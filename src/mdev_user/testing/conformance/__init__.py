"""The conformance kit: whatever must hold for any parent driver, tried at random; `check` begins it.

`checks` are what is tried, `operations` and `drawing` make up the cases, `player` performs them on a device in a fresh
interpreter (`zygote`, `fresh`), `invariants`, `rules` and `comparison` judge, `script` prints what was found.
"""
