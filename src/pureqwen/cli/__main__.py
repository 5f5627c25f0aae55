"""`python -m pureqwen.cli`: the same as the command `pureqwen`."""

from pureqwen.cli import main

main()
