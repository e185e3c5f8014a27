"""vgpu: one GPU cut into many, as Intel's GVT-g did, each of which a stock guest drives as virtio-gpu.

`card` is the parent and its types, `function` the mdev, `commands` what a guest says, `resources` its pictures,
`entries` the memory that it has for them. `rendering` is 3D, with what `heads` show of it, by a renderer's `process`.
"""
