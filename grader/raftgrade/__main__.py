"""``python -m raftgrade`` is the same as ``raftgrade``."""

import sys

from raftgrade.cli import main

if __name__ == "__main__":
    sys.exit(main())
