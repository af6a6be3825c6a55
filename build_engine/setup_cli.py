"""`egm setup edgellm`: the environment of NVIDIA's TensorRT Edge-LLM, on the host that exports or on the device that answers."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from build_engine.edge_llm.environment import ENVIRONMENT_VARIABLE, default_root
from build_engine.edge_llm.install import create, device_recipe, host_recipe
from egm_edge.cli.parser import Parser
from egm_edge.machine import board_name

EPILOG = """\
On a host: exporter and ModelOpt, pinned, in an environment of their own (2.3 GB, about two minutes); `egm build` finds it.
On a Jetson (or with --device): runtime, engine builder and egm-edge in one environment that sees JetPack's own packages.

examples:
  egm setup edgellm
  egm setup edgellm --device --into ~/egm && ~/egm/bin/egm build egm-4b-orin --target jetson-agx-orin -o egm-4b-orin
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="egm setup", description="Make an environment that egm build needs.", epilog=EPILOG)
    parser.add_argument("what", choices=("edgellm",), help="NVIDIA's TensorRT Edge-LLM")
    parser.add_argument("--device", action="store_true", help="for a device (default on a Jetson)")
    parser.add_argument("--host", action="store_true", help="for a host, even on a Jetson")
    parser.add_argument("--into", type=Path, metavar="DIR", help=f"where (default: {default_root()})")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)
    if arguments.device and arguments.host:
        parser.error("expected --device or --host, found both")
    root = (arguments.into or default_root()).expanduser().absolute()
    device = arguments.device or ("jetson" in board_name().lower() and not arguments.host)
    recipe = device_recipe(root) if device else host_recipe(root)
    if arguments.dry_run:
        commands = [shlex.join(command) for command in recipe.commands()]
        print(json.dumps({"root": str(root), "commands": commands}) if arguments.json else "\n".join(commands))
        return 0
    made = create(recipe, lambda line: print(line, file=sys.stderr))
    if arguments.json:
        print(json.dumps({"root": str(root), "device": device, "made": made}))
        return 0
    print(f"{'ready' if made else 'already there'}: {root}")
    if device:
        print(f"use {root}/bin/egm")
    elif root != default_root():
        print(f"export {ENVIRONMENT_VARIABLE}={shlex.quote(str(root))}")
    return 0

