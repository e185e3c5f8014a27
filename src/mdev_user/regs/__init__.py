"""Registers as typed declarations (the authoring API's lowest storey).

`kinds`, `fields`, `registers`, `arrays` and `bar` are what an author declares with; `refs` is what naming a register on
its class gives; `layout` checks and places the registers of a bar, and `space` performs a guest's accesses to them.
"""
