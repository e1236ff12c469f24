"""`python -m lossweights` is the command `lossweights`."""

from lossweights.cli import main

if __name__ == "__main__":
    main()
