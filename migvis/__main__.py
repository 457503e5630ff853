"""`python -m migvis` is the command `migvis`."""
import sys

from migvis.cli import main

if __name__ == "__main__": sys.exit(main())
