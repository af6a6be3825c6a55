"""`python -m egm_edge.cli`: the same as the `egm` command."""

from egm_edge.cli import main

raise SystemExit(main())
