"""Many requests: which of them a step computes (scheduler), the step itself (runner), the thread (engine).

Nothing is imported here, so that request and scheduler stay free of torch: take the names from their files.
"""
