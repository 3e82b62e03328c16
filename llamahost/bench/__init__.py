"""The load generator: workloads, measurement, report."""
