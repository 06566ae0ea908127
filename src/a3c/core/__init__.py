"""Pure maths on tensors: no environment, process, file, clock, configuration or global random stream."""
