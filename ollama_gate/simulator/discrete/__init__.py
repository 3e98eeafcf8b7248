"""The discrete-event world: the brain alone, or another policy, on simulated cards.

No sockets and no real time: thousands of requests a second, the same for the same seed.
"""
