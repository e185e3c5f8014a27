"""Registers as typed declarations (the authoring API's lowest storey; see docs/decisions)."""
