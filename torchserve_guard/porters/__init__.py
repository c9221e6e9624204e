"""THE PROCESSES AT THE DOOR: porters that take clients' connections beside the guard, and their lodge.

A porter decides what it can decide alone. What is recorded, changed or kept stays with the guard's own process, which
tells porters what they need and believes them as little as it can (docs/adr/0015).
"""
