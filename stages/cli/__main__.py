"""`python -m stages.cli`, as `torchrun -m stages.cli` starts it."""

import sys

from stages.cli.main import main

sys.exit(main())
