"""The 3D renderer of vgpu: virglrenderer, in a process of the mdev's own."""
