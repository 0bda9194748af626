"""Files that start a training elsewhere: a KubeRay RayJob, a Slurm batch script, a YAML for Ray's cluster launcher."""
