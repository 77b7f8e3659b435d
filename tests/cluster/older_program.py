"""Runs a gateway as one from before key rotation would be: it reads the fleet's keys at its start alone, and says
nothing of them. `older_program.py python -m gateway.cli serve …`."""

from __future__ import annotations

import sys

from gateway.cluster.fleet_records import Beat
from gateway.cluster.key_watch import KeyWatch

if __name__ == "__main__":
    changed = Beat.changed

    def without_keys(beat: Beat, *, draining: bool, links: int) -> Beat:
        return changed(beat, draining=draining, links=links).knowing(0)

    found_at = Beat.found_at
    Beat.changed = without_keys  # type: ignore[method-assign]
    Beat.found_at = lambda beat, **where: found_at(beat, **where).knowing(0)  # type: ignore[method-assign]
    KeyWatch.hear = lambda _watch, _entry: None  # type: ignore[method-assign]
    from gateway.cli import main

    # behind it stands the command as it would have been without this
    sys.argv = ["heliograph", *sys.argv[sys.argv.index("gateway.cli") + 1 :]]
    main()
