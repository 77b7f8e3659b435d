"""`python -m gateway.cli` is the same as `heliograph`."""

import sys

from gateway.cli import main

sys.exit(main())
