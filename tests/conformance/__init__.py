"""Whether a proxy before an Ollama can be told from that Ollama: cases, run on both ways.

`python -m tests.conformance STRAIGHT PROXIED`, or `make conformance STRAIGHT=… PROXIED=…`.
"""
