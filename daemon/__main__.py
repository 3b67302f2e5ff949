"""Lets `python -m daemon` be the command `scribed`."""

from daemon.cli.main import main

if __name__ == "__main__":
    main()
