"""Masters of this version and of others start their workers as `python -m gapless.server.worker`: the name stays."""

import sys

from gapless.server.worker.worker import main

sys.exit(main(sys.argv[1:]))
