"""Run an unmodified program of Agent-lightning 0.3: ``python -m lightning_trio.compat script.py …``."""

from ._script import main

if __name__ == "__main__":
    main()
