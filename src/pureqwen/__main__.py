"""`python -m pureqwen`: the same as the command `pureqwen`."""

from pureqwen.cli import main

main()
