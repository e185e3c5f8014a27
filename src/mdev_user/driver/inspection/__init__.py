"""What tools see of a device: its declarations as a map, its values by name, its accesses in words."""
