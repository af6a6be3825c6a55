"""`egm completion bash|zsh`: a script that completes verbs, options and files; options are read from each verb's own help."""

from __future__ import annotations

from egm_edge.cli import VERBS
from egm_edge.cli.parser import Parser

_BASH = """\
_egm() {
  local word=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]}
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "VERBS" -- "$word"))
  elif [ "${word:0:1}" = - ]; then
    COMPREPLY=($(compgen -W "$(egm "$verb" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+' | sort -u)" -- "$word"))
  fi
}
complete -o default -F _egm egm
"""
SCRIPTS = {"bash": _BASH, "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + _BASH}


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="egm completion", description="Print a completion script.", epilog='bash: eval "$(egm completion bash)"')
    parser.add_argument("shell", choices=sorted(SCRIPTS))
    print(SCRIPTS[parser.parse_args(argv).shell].replace("VERBS", " ".join(VERBS)), end="")
    return 0
