"""`python -m ollama_gate` is the command line."""

from ollama_gate.cli import main

if __name__ == "__main__":
    main()
