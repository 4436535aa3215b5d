"""Many devices and processes: the mesh, shardings, gradients over devices."""
