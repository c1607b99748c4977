"""`python -m permlab` in a bare checkout does what the installed command does."""

from permlab.cli import main

if __name__ == "__main__":
    main()
