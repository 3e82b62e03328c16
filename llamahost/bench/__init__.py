"""The load generator: workloads, measurement, report.

It speaks HTTP to any OpenAI-compatible server and shares no process and no code with the one that it measures.
"""
